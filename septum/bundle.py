"""Weights in and out of MONAI bundles: numbers and names, never a configuration that runs.

A bundle is a folder with ``configs/metadata.json``, ``configs/inference.json``
and ``models/``. Out goes a whole bundle. In come only the weights: MONAI's
configurations are programs (``$`` expressions, ``_target_``), and none is read
here but the metadata, as text. What comes in becomes the public start of a
study, which names it by the SHA-256 of its file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

import septum
from septum import tensors
from septum.durable import replace
from septum.errors import Code, DataError, Refusal
from septum.models import Vector, Weights, load_vector, network_of
from septum.models.frozen import merge
from septum.tasks import normalise, task_of

if TYPE_CHECKING:
    from septum.study import Study

SUFFIX: Final = ".safetensors"
_MOST_METADATA: Final = 1 << 20


def keep(folder: Path, weights: Weights) -> str:
    """Write ``weights`` into ``folder`` under their digest, and return it.

    Raises:
      DataError: The weights hold a name or dtype that is not stored.
    """
    content = tensors.encode(weights)
    digest = tensors.digest_of(content)
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / f"{digest}{SUFFIX}", lambda file: file.write(content))
    return digest


def weights_of(study: "Study", folder: Path) -> Weights | None:
    """Return the public weights that ``study`` names, from ``folder``; None if it names none.

    Raises:
      Refusal: With :attr:`Code.MODEL_MISMATCH`: the file is not there, or is not
        the one that the study names.
    """
    digest = study.model.weights
    if not digest:
        return None
    path = folder / f"{digest}{SUFFIX}"
    if not path.is_file():
        raise Refusal(
            Code.MODEL_MISMATCH,
            f"the study starts from weights {digest[:12]}…, which are not in {folder.name}.",
            remedy="Get the file from the coordinator and run `septum model import`.",
        )
    content = tensors.read(path)
    if tensors.digest_of(content) != digest:
        raise Refusal(
            Code.MODEL_MISMATCH,
            f"{path.name[:12]}… is not the file that its name says.",
            remedy="Delete it and get it from the coordinator again.",
        )
    return tensors.decode(content)


def read_weights(path: Path) -> Weights:
    """Return the weights of a MONAI bundle's folder, or of one weights file.

    A ``model.pt`` is a pickle and is not read: whoever trusts one turns it into
    safetensors first.

    Raises:
      DataError: No such weights are there, or the file is damaged, too large, or
        holds anything but tensors.
    """
    found = path / "models" / f"model{SUFFIX}" if path.is_dir() else path
    if found.suffix != SUFFIX or not found.is_file():
        raise DataError(
            f"{path.name} holds no models/model{SUFFIX}.",
            remedy="Where you trust the model.pt: load it with torch's weights_only=True and "
            "write it with safetensors.torch.save_file.",
        )
    return tensors.decode(tensors.read(found))


def read_metadata(folder: Path) -> Mapping[str, Any]:
    """Return a bundle's ``configs/metadata.json`` as plain data; empty if there is none.

    Raises:
      DataError: It is too large or not a JSON table.
    """
    path = folder / "configs" / "metadata.json"
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_METADATA + 1)
        fields = json.loads(content) if len(content) <= _MOST_METADATA else None
    except (OSError, ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise DataError(
            f"{path.name} is not a JSON table of at most {_MOST_METADATA} bytes.",
            remedy="Correct the bundle's metadata.",
        )
    return fields


def export(study: "Study", vector: Vector, folder: Path, *, weights: Weights | None = None) -> str:
    """Write the study's global model as a MONAI bundle into the new ``folder``.

    Frozen layers are included and low-rank updates merged, so that the bundle
    stands alone. It is a function of released numbers and costs no privacy.

    Args:
      study: The study that trained it.
      vector: The global model, float32 (params,).
      folder: A path that does not exist yet.
      weights: The public weights that the study names, if it names any.

    Returns:
      The digest of ``models/model.safetensors``: a later study can start from it.

    Raises:
      DataError: ``folder`` exists.
      Refusal: The vector does not fit the network.
    """
    model = network_of(study, weights=weights)
    load_vector(model, vector)
    merge(model)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if folder.exists():
        raise DataError(f"{folder.name} exists already.", remedy="Name a new folder.")
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    content = tensors.encode(state)
    digest = tensors.digest_of(content)
    replace(folder / "models" / f"model{SUFFIX}", lambda file: file.write(content))
    # MONAI's own tools look for this one: a plain table of tensors.
    replace(folder / "models" / "model.pt", lambda file: torch.save(state, file))
    _write_json(folder / "configs" / "metadata.json", _metadata(study))
    _write_json(folder / "configs" / "inference.json", _inference(study))
    return digest


def read_model(path: Path, study: "Study") -> Vector:
    """Return the global model of a coordinator's checkpoint of ``study``; never unpickles.

    Raises:
      DataError: The file is damaged, or of another study.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            digest, model = str(stored["digest"]), np.asarray(stored["model"], dtype=np.float32)
    except Exception as error:  # noqa: BLE001 - zipfile and numpy raise many kinds
        raise DataError(
            f"{path.name} is no checkpoint ({type(error).__name__}).",
            remedy="Name a round-….npz of the study's folder.",
        ) from None
    if digest != study.digest:
        raise DataError(
            f"{path.name} belongs to the study {digest[:12]}….",
            remedy="Name a checkpoint of this study.",
        )
    return model


def _write_json(path: Path, fields: Mapping[str, object]) -> None:
    text = json.dumps(fields, indent=2).encode()
    replace(path, lambda file: file.write(text))


def _metadata(study: "Study") -> dict[str, object]:
    data = study.data
    side = [data.depth] * (data.depth > 1) + [data.image_size] * 2
    names = list(data.labels)
    if data.task == "segmentation":
        names = ["background", *names]
    grey = normalise(torch.tensor([0.0, 1.0])).tolist()
    return {
        "version": septum.__version__,
        "task": data.task,
        "description": study.purpose,
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "num_channels": 1,
                    "spatial_shape": side,
                    "dtype": "float32",
                    "value_range": grey,
                    "is_patch_data": data.task == "segmentation",
                    "channel_def": {"0": "grey"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image" if data.task == "segmentation" else "logits",
                    "num_channels": task_of(study).outputs,
                    "dtype": "float32",
                    "channel_def": {str(index): name for index, name in enumerate(names)},
                }
            },
        },
        "septum": {"study": study.digest, "model": study.model.name},
    }


def _inference(study: "Study") -> dict[str, object]:
    data = study.data
    side = [data.depth] * (data.depth > 1) + [data.image_size] * 2
    fields: dict[str, object] = {
        "network_def": {
            "_target_": "septum.models.build",
            "name": study.model.name,
            "channels": 1,
            "outputs": task_of(study).outputs,
            "seed": study.model.seed,
            "dims": len(side),
            "size": side,
            "weight_standardisation": study.model.weight_standardisation,
        }
    }
    if data.task == "segmentation":
        fields["inferer"] = {
            "_target_": "SlidingWindowInferer",
            "roi_size": side,
            "overlap": 0.25,
        }
    return fields
