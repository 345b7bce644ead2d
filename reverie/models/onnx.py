"""A classifier -> one ONNX file that answers as it does, for programs without Python or torch.

    in    pixels          uint8 (batch, side, side, 3): red, green, blue, as a decoder gives them
    out   logits          float32 (batch, classes)
          probabilities   float32 (batch, classes): softmax of the logits

Colours are scaled and normalised inside; what stays outside is to make a photo a square, as ``square`` does. The metadata
of the file holds ``classes`` (a JSON list, in the order of the columns), ``side``, ``edge`` and ``resample`` (the arguments of
``square``), ``encoder`` and ``revision``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from reverie.errors import FolderInUse, InputError, MissingExtra, ModelError
from reverie.models.classifier import Classifier
from reverie.store.files import atomic_file
from reverie.store.pictures import upright_rgb

OPSET = 20
TOLERANCE = 1e-4  # largest difference to torch, see _difference


def export_onnx(classifier: Classifier, path: Path) -> float:
    """Write the file, with its weights beside it in ``PATH.data`` if they are more than 1.5 GB.

    Before it gets its name it is asked about random pictures, in batches of another size than it was made with.
    Args:
        classifier: on the CPU.
        path: must not be there yet.
    Returns: how far it and ``classifier`` are apart on those pictures at most, in probability or in cosine to a class.
    Raises: MissingExtra without onnx, onnxscript and onnxruntime; FolderInUse or InputError for a path that cannot be
        written; ModelError if the encoder cannot be expressed, or the file does not answer alike.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtra("an ONNX file", "onnx") from error
    if path.exists():
        raise FolderInUse(f"{path} is there already; give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; give another name") from error
    with scratch as place:
        program = _program(classifier)
        program.model.metadata_props.update(about(classifier))
        program.save(Path(place) / path.name)
        difference = _difference(classifier, Path(place) / path.name)
        if not difference <= TOLERANCE:
            raise ModelError(
                f"the ONNX file would differ by {difference:.2g} from torch; its encoder prepares pictures in a way that "
                "the export does not know"
            )
        for file in sorted(Path(place).iterdir(), reverse=True):  # PATH.data first: who sees PATH sees all of it
            with atomic_file(path.with_name(file.name)) as partial:
                file.replace(partial)
    return difference


def about(classifier: Classifier) -> dict[str, str]:
    """What the metadata of the file says."""
    encoder = classifier.encoder
    edge, resample = encoder.fit
    return {
        "classes": json.dumps(classifier.classes, ensure_ascii=False),
        "side": str(encoder.preparation[2]),
        "edge": str(edge),
        "resample": resample,
        "encoder": type(encoder.net).__name__,
        "revision": encoder.revision,
    }


def square(photo: Image.Image, side: int, edge: int, resample: str) -> npt.NDArray[np.uint8]:
    """A photo as the encoder's own preparation makes it: the input of the file.

    Args:
        side: of the square, in pixels.
        edge: length that the shorter side of the photo is resized to before the centre is cut out; 0 squashes the photo.
        resample: as Pillow calls it, such as bicubic.
    Returns: uint8 (side, side, 3).
    """
    photo = upright_rgb(photo)
    width, height = photo.size
    shorter = min(width, height)
    size = (int(edge * width / shorter), int(edge * height / shorter)) if edge else (side, side)
    photo = photo.resize(size, Image.Resampling[resample.upper()])
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    return np.asarray(photo.crop((left, top, left + side, top + side)))


class _Whole(nn.Module):
    """Pixels to logits and probabilities, in one graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        mean, std, _ = classifier.encoder.preparation
        self.net, self.head = classifier.encoder.net, classifier.logits
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        colours = pixels.permute(0, 3, 1, 2).float() / 255
        rows = self.net.get_image_features(pixel_values=(colours - self.mean) / self.std).pooler_output
        logits = self.head(rows)
        return logits, logits.softmax(dim=1)


def _program(classifier: Classifier) -> Any:
    side = classifier.encoder.preparation[2]
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    loud = logging.getLogger("torch.onnx")
    level, said = loud.level, io.StringIO()
    loud.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                _Whole(classifier).eval(),
                (example,),
                input_names=["pixels"],
                output_names=["logits", "probabilities"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        kind = type(classifier.encoder.net).__name__
        raise ModelError(f"{kind} cannot be written as ONNX: {' '.join(str(error).split())[:200]}") from error
    finally:
        loud.setLevel(level)


def _difference(classifier: Classifier, path: Path) -> float:
    """How far the file and the classifier are apart at most, on rough and on smooth pictures.

    In probability, and in logits as a share of the longest class row: where one class is sure, its probability tells nothing.
    """
    import onnxruntime

    side = classifier.encoder.preparation[2]
    draw = np.random.default_rng(0)
    rough = draw.integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    smooth = np.stack([np.full((side, side, 3), colour, np.uint8) for colour in draw.integers(0, 256, (2, 3))])
    pixels = np.concatenate([rough, smooth])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    if not isinstance(session.get_inputs()[0].shape[0], str):  # the exporter fixes it where it cannot follow the code
        kind = type(classifier.encoder.net).__name__
        raise ModelError(f"{kind} cannot be written as ONNX for batches of any size")
    logits, probabilities = session.run(["logits", "probabilities"], {"pixels": pixels})
    with torch.inference_mode():
        ours = classifier.logits(classifier.encoder.images(pixels))
    apart = np.abs(logits - ours.numpy()).max() / float(classifier.weight.norm(dim=1).max())
    return float(max(apart, np.abs(probabilities - ours.softmax(1).numpy()).max()))
