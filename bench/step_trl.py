"""A training step of `trl.experimental.sdpo`: a contender of `bench.trainer`, which starts it."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer
from trl.trainer.utils import pad
from typing_extensions import override

from bench.trainer import BASE, CLIP, EMA, LR, MINI_BATCHES, TOP_K, draw, now, read_arguments, report


def main() -> None:
    """Train and report. Rollouts and teacher prompts are given where TRL would draw them; all else is TRL's."""
    arguments = read_arguments()
    batch = draw(arguments)
    dealt = [s for mini_batch in batch.mini_batches(MINI_BATCHES) for s in mini_batch]
    tokenizer = AutoTokenizer.from_pretrained(BASE)

    def padded(rows: Sequence[Sequence[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
        ids = [torch.tensor(row) for row in rows]
        masks = [torch.ones_like(row) for row in ids]
        return pad(ids, padding_value=tokenizer.pad_token_id, padding_side=side), pad(masks, 0, padding_side=side)

    class Given(SDPOTrainer):  # type: ignore[misc]
        """Everything but the drawing of a batch is TRL's."""

        @override
        def _prepare_training_batch(self, inputs: object) -> dict[str, torch.Tensor]:
            prompt_ids, prompt_mask = padded([s.prompt_ids for s in dealt], "left")
            completion_ids, completion_mask = padded([s.completion_ids for s in dealt], "right")
            given = {
                "prompt_ids": prompt_ids,
                "prompt_mask": prompt_mask,
                "completion_ids": completion_ids,
                "completion_mask": completion_mask,
            }
            old_logps = self._compute_rollout_logps(**given)
            teacher_ids, teacher_mask = padded([s.teacher_ids for s in dealt], "left")
            return given | {
                "old_per_token_logps": old_logps,
                "teacher_input_ids": torch.cat([teacher_ids, completion_ids], 1),
                "teacher_attention_mask": torch.cat([teacher_mask, completion_mask], 1),
                "self_distillation_mask": torch.ones(len(dealt)),
            }

    marks: list[tuple[float, float]] = []

    class Marks(TrainerCallback):  # type: ignore[misc]
        @override
        def on_step_begin(self, args: object, state: Any, control: object, **_: object) -> None:
            if state.global_step % MINI_BATCHES == 0:
                marks.append(now())

        @override
        def on_train_end(self, args: object, state: object, control: object, **_: object) -> None:
            marks.append(now())

    rounds = len(dealt) // MINI_BATCHES // arguments.micro
    with tempfile.TemporaryDirectory() as folder:
        trainer = Given(
            model=AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": ["-"] * len(dealt)}),
            callbacks=[Marks()],
            args=SDPOConfig(
                output_dir=folder,
                use_cpu=not torch.cuda.is_available(),
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                logging_steps=1,
                max_steps=arguments.steps * MINI_BATCHES,
                per_device_train_batch_size=arguments.micro,
                gradient_accumulation_steps=rounds,
                steps_per_generation=rounds * MINI_BATCHES,
                num_generations=arguments.samples,
                learning_rate=LR,
                lr_scheduler_type="constant",
                distillation_mode="topk_logits" if arguments.vocabulary else "full_logits",
                distillation_topk=TOP_K if arguments.vocabulary else None,
                distillation_add_tail=bool(arguments.vocabulary),
                distillation_alpha=0.5,
                distillation_is_clip=CLIP,
                teacher_update_rate=EMA,
                teacher_sync_steps=MINI_BATCHES,
            ),
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    report(marks, statistics.mean(losses[:MINI_BATCHES]))


if __name__ == "__main__":
    main()
