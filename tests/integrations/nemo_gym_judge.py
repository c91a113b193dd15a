"""
What NeMo Gym says of a dataset; run by an interpreter that has it, with the file and an empty folder.

    python tests/integrations/nemo_gym_judge.py mix.jsonl FOLDER

prints one JSON object: what its checker and its collator make of the rows, and the rows as its collector sends them.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from nemo_gym.rollout_collection import RolloutCollectionConfig, RolloutCollectionHelper
from nemo_gym.train_data_utils import DatasetConfig, TrainDataProcessor


class Server:
    """The agent of a configuration, as far as the collator looks at it."""

    def __init__(self, name: str, file: Path) -> None:
        self.name = name
        self.datasets = [DatasetConfig(name="mix", type="example", jsonl_fpath=str(file))]


def main() -> None:
    file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    copy = folder / "mix.jsonl"
    copy.write_bytes(file.read_bytes())
    server = Server("example_multi_step_simple_agent", copy)
    with contextlib.redirect_stdout(io.StringIO()):
        processor = TrainDataProcessor()
        state = processor._validate_samples_and_aggregate_metrics_single_dataset(server.datasets[0])
        (collated,) = processor._collate_samples_single_type("example", [server])
        config = RolloutCollectionConfig(input_jsonl_fpath=str(file), output_jsonl_fpath=str(folder / "out.jsonl"))
        rows = RolloutCollectionHelper()._preprocess_rows_from_config(config)
    said = {
        "offending": state.offending_example_idxs,
        "keys": dict(state.key_counts),
        "metrics": state.metrics.aggregate().model_dump(mode="json", by_alias=True),
        "collated": collated.read_text().splitlines(),
        "sent": rows,
    }
    print(json.dumps(said))


main()
