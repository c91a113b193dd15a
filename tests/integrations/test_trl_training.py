"""
The real GRPOTrainer on a composed dataset, where trl and torch are installed; a few thousand random weights will do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import compose, write_composition
from gymcore.discovery import discover
from gymcore.integrations.trl import load
from gymcore.plan import Plan

trl = pytest.importorskip("trl", reason="trl is not installed: pip install trl torch")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


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


def test_grpo_trains_on_a_mix_and_logs_the_reward_of_each_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Who asks for the weather is paid by the weather environment and by no other.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    environments = {"example_single_tool_call": {"limit": 2}, "example_multi_step": {"limit": 2}}
    catalog = discover()
    composition = compose(Plan.model_validate({"environments": environments}), catalog, environ={})
    write_composition(composition, tmp_path / "mix")
    model, tokenizer = a_small_model()
    options = trl.GRPOConfig(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=8,
        num_generations=2,
        max_completion_length=400,
        max_steps=1,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
    )

    with load(tmp_path / "mix", catalog, cache_dir=str(tmp_path / "cache")) as spec:
        trainer = Scripted(
            model=model,
            processing_class=tokenizer,
            args=options,
            train_dataset=spec.train_dataset,
            environment_factory=spec.environment_factory,
            reward_funcs=spec.reward_funcs,
        )
        trainer.train()

    logged = trainer.state.log_history[0]
    assert logged["rewards/example_single_tool_call/mean"] == 1.0
    assert logged["rewards/example_multi_step/mean"] == 0.0
    assert logged["reward"] == 0.5
    assert logged["tools/call_frequency"] == 1.0
