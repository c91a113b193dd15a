"""
The real GRPOTrainer on a composed dataset, where trl and torch are installed; a few thousand random weights will do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import compose, write_composition
from gymcore.discovery import discover
from gymcore.integrations.trl import load
from gymcore.plan import Plan
from gymcore.testing.plugins import PluginFolder

trl = pytest.importorskip("trl", reason="trl is not installed; `make test-trl` installs it")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


LABOUR = Path(__file__).parents[1] / "data" / "gym_plugin_labour"


def a_small_model() -> tuple[Any, Any]:
    """Return a model with random weights and a tokenizer of bytes, which knows how its family calls tools."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    spelling = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    spelling.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelling.decoder = decoders.ByteLevel()
    spelling.add_special_tokens(words[:3])
    template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=spelling, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 8192}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=len(words), **sizes, **heads)), tokenizer


class Scripted(trl.GRPOTrainer):  # type: ignore[misc]
    """A trainer whose model asks for the weather once and then answers, whatever its weights say."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *arguments: Any, **options: Any) -> Any:
        call = json.dumps({"name": "get_weather", "arguments": {"city": "Oslo"}})
        replies = []
        for ids in prompt_ids:
            is_answered = "<tool_response>" in self.processing_class.decode(ids)
            text = "It is cold." if is_answered else f"<tool_call>\n{call}\n</tool_call>"
            replies.append([*self.processing_class(text)["input_ids"], self.processing_class.eos_token_id])
        return replies, None


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """
    Train one step on a composed dataset, and return what the trainer logged.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(environments: dict[str, Any], trainer_class: type[Any], *, length: int, batch: int = 8) -> dict[str, Any]:
        catalog = discover()
        composition = compose(Plan.model_validate({"environments": environments}), catalog, environ={})
        write_composition(composition, tmp_path / "mix")
        model, tokenizer = a_small_model()
        options = trl.GRPOConfig(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=batch,
            num_generations=2,
            max_completion_length=length,
            max_steps=1,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
        )
        with load(tmp_path / "mix", catalog, cache_dir=str(tmp_path / "cache")) as spec:
            trainer = trainer_class(
                model=model,
                processing_class=tokenizer,
                args=options,
                train_dataset=spec.train_dataset,
                environment_factory=spec.environment_factory,
                reward_funcs=spec.reward_funcs,
            )
            trainer.train()
        logged: dict[str, Any] = trainer.state.log_history[0]
        return logged

    return run


def test_grpo_trains_on_a_mix_and_logs_the_reward_of_each_environment(trained: Callable[..., dict[str, Any]]) -> None:
    """
    Who asks for the weather is paid by the weather environment and by no other.
    """
    environments = {"example_single_tool_call": {"limit": 2}, "example_multi_step": {"limit": 2}}

    logged = trained(environments, Scripted, length=400)

    assert logged["rewards/example_single_tool_call/mean"] == 1.0
    assert logged["rewards/example_multi_step/mean"] == 0.0
    assert logged["reward"] == 0.5
    assert logged["tools/call_frequency"] == 1.0
    assert logged["completions/clipped_ratio"] == 0.0


def test_a_completion_that_met_the_limit_is_not_paid_as_a_whole_one(
    trained: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """
    What random weights say has no end, so the verifier, which pays for whole replies, is told of each that it was cut.
    """
    row = {"responses_create_params": {"input": "Work."}, "what": "stop"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with PluginFolder(tmp_path / "plugins") as folder:
        folder.install_project(LABOUR)

        logged = trained({"labour": {"data": [str(tmp_path / "rows.jsonl")]}}, trl.GRPOTrainer, length=8, batch=2)

    assert logged["completions/clipped_ratio"] == 1.0
    assert logged["rewards/labour/mean"] == 0.0


def test_transformers_reads_the_schema_of_every_tool(wordy: PluginFolder, tmp_path: Path) -> None:
    """
    A model is told of every argument what a type hint can say, in the environment's words.
    """
    from transformers.utils import get_json_schema

    (tmp_path / "rows.jsonl").write_text('{"responses_create_params": {"input": "Hi."}}\n')
    catalog = discover()
    environments = {"wordy": {"data": [str(tmp_path / "rows.jsonl")]}}
    plan = Plan.model_validate({"environments": environments, "models": {"policy": "nop"}})
    write_composition(compose(plan, catalog, environ={}), tmp_path / "mix")

    with load(tmp_path / "mix", catalog, cache_dir=str(tmp_path / "cache")) as spec:
        put = get_json_schema(spec.environment_factory["wordy"]().put)["function"]

    assert put["description"] == "Put it there. Returns : nothing."
    assert put["parameters"]["properties"] == {
        "value": {"description": "Anything. Returns : no matter."},
        "pair": {
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
            "description": "Two of them.",
        },
        "kind": {"type": "string", "enum": ["a"], "description": "The only one."},
        "table": {"type": "object", "additionalProperties": {"type": "integer"}, "description": "By name."},
    }
