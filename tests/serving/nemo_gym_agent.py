"""
The `proof_refinement_agent` of an installed NeMo Gym, without its Ray; run by an interpreter that has it.

    python tests/serving/nemo_gym_agent.py PORT OURS

serves it on one port of this machine, with an environment and a model that `gym serve` serves on the other.
"""

import os
import sys

import uvicorn
from nemo_gym.config_types import BaseServerConfig, ModelServerRef, ResourcesServerRef
from nemo_gym.server_utils import ServerClient
from omegaconf import OmegaConf
from responses_api_agents.proof_refinement_agent.app import ProofRefinementAgent, ProofRefinementAgentConfig


def main() -> None:
    own, ours = ({"host": "127.0.0.1", "port": int(port)} for port in sys.argv[1:])
    places = {
        "agent": {"responses_api_agents": {"proof_refinement_agent": own}},
        "world": {"resources_servers": {"world": ours}},
        "policy": {"responses_api_models": {"policy": ours}},
        "head_server": ours,
    }
    os.environ["NEMO_GYM_CONFIG_DICT"] = OmegaConf.to_yaml(places)
    agent = ProofRefinementAgent(
        config=ProofRefinementAgentConfig(
            **own,
            name="agent",
            entrypoint="app.py",
            resources_server=ResourcesServerRef(type="resources_servers", name="world"),
            model_server=ModelServerRef(type="responses_api_models", name="policy"),
        ),
        server_client=ServerClient(
            head_server_config=BaseServerConfig(**ours), global_config_dict=OmegaConf.create(places)
        ),
    )
    uvicorn.run(agent.setup_webserver(), **own, log_level="warning")


main()
