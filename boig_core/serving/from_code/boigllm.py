"""A language model as MLflow loads it: prompts in, answers out, each the likeliest one.

MLflow runs this file beside the model's folder, in whatever environment asks for the model. So it
takes what ``requirements.txt`` names and nothing of boig. The folder itself says how a prompt is
framed and how long an answer may be. How a post is worded as a prompt is boig's own: ``boig
describe`` does it.
"""

from __future__ import annotations

from typing import Any

import mlflow


class AnswerModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The model and its tokenizer."""

    def load_context(self, context: Any) -> None:
        """Open both, on the GPU if there is one."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = context.artifacts["model"]
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
        self._model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    # MLflow warns of each type hint that it cannot turn into a schema.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """The answer to each row's ``prompt``, in the column ``answer``."""
        import pandas as pd

        rows = pd.DataFrame(model_input)
        answers = [self._answer(str(prompt)) for prompt in rows["prompt"]]
        return pd.DataFrame({"answer": answers}, index=rows.index)

    def _answer(self, prompt: str) -> str:
        import torch

        tokenizer = self._tokenizer
        if tokenizer.chat_template:
            turn = [{"role": "user", "content": prompt}]
            # A prompt holds a post's text, in which the name of a mark is text.
            options = {"add_generation_prompt": True, "sanitize_control_tokens": True}
            ids = tokenizer.apply_chat_template(turn, **options)["input_ids"]
        else:
            bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            plain = tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)
            ids = [*bos, *plain["input_ids"]]
        ids_1T = torch.tensor([ids], device=self._model.device)
        with torch.inference_mode():
            written_1T = self._model.generate(
                input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), do_sample=False
            )
        text: str = tokenizer.decode(
            written_1T[0, len(ids) :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


mlflow.models.set_model(AnswerModel())
