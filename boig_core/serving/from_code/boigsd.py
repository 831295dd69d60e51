"""An image generator as MLflow loads it: texts in, PNG files out.

MLflow runs this file beside the model's folder, in whatever environment asks for the model. So it
takes what ``requirements.txt`` names and nothing of boig. Each image is sampled by itself: it
depends on its text and seed alone.
"""

from __future__ import annotations

import io
import secrets
from typing import Any

import mlflow

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia" '
    'Iptc4xmpExt:AISystemUsed="boig"/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)


class ImageModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The pipeline, with the steps and the guidance that the model was evaluated with."""

    def load_context(self, context: Any) -> None:
        """Open the pipeline, on the GPU if there is one."""
        import torch
        from diffusers import DiffusionPipeline

        self._settings = context.model_config
        self._pipe = DiffusionPipeline.from_pretrained(context.artifacts["model"])
        self._pipe.set_progress_bar_config(disable=True)
        if torch.cuda.is_available():
            self._pipe = self._pipe.to("cuda")

    # MLflow warns of each type hint that it cannot turn into a schema.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """One PNG in the column ``image`` for each row: of its ``text``, from the noise of its
        ``seed``, which is drawn where there is none."""
        import pandas as pd
        import torch

        rows = pd.DataFrame(model_input)
        seeds = rows["seed"] if "seed" in rows else [None] * len(rows)
        files = []
        for text, seed in zip(rows["text"], seeds, strict=True):
            number = secrets.randbelow(2**32) if seed is None or pd.isna(seed) else int(seed)
            image = self._pipe(
                str(text),
                num_inference_steps=self._settings["sampling_steps"],
                guidance_scale=self._settings["guidance"],
                generator=torch.Generator("cpu").manual_seed(number),
            ).images[0]
            files.append(_png(image))
        return pd.DataFrame({"image": files}, index=rows.index)


def _png(image: Any) -> bytes:
    """The file, which says in its XMP that a model made it."""
    from PIL.PngImagePlugin import PngInfo

    about, file = PngInfo(), io.BytesIO()
    about.add_itxt("XML:com.adobe.xmp", _XMP)
    image.save(file, "PNG", pnginfo=about)
    return file.getvalue()


mlflow.models.set_model(ImageModel())
