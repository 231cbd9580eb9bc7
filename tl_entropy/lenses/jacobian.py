r"""The Jacobian lens: one matrix for each layer, J_l = E[∂h_final / ∂h_l], that carries a state to what it does to the output.

The logit lens reads a state as if it were the last. The Jacobian lens reads J_l h: to first order, and on average over a corpus
of contexts, what the state after block l adds to the last one, at its own and later positions (Gurnee et al. 2026,
https://transformer-circuits.pub/2026/workspace/index.html). Lenses come from files in the format of that paper, which
TransformerLens's ``JacobianLens`` and the package ``jlens`` write, or from an object of theirs. Such an object is known by what
it has, and not by its class, so that this works beside any TransformerLens; nothing of theirs is imported, and nothing in a
file is run.

J_l belongs to the state after block l, ``resid_post.l``, which is ``resid_pre.l+1``. The last ``resid_post`` is what the model
itself reads, and is left as it is.

Refused: states that have no matrix (``embed``, sites inside a block), models of another width, depth or name, a target other
than the last layer, and models whose weights TransformerLens has processed, since matrices are fitted on the raw residual
stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.origin import norm_is_folded
from tl_entropy.errors import FileError, InputError, InputTypeError, counted
from tl_entropy.lenses.files import checked_archive
from tl_entropy.results.files import as_path, to_read, write_torch
from tl_entropy.sites import Site
from tl_entropy.torch_state import Steady, steady

ESTIMATOR = "jacobian_lens"
"""What TransformerLens calls the estimator of the paper; files that name none are of it."""


@dataclass(frozen=True, eq=False, repr=False)
class JacobianLens(Steady):
    """A fitted Jacobian lens: a function of a site and its rows, for ``lens=`` of a measurement.

    Made by ``load_jacobian_lens``. An object of TransformerLens's own class will do for ``lens=``, too.

    Attributes:
        weights: [layer, d_model, d_model] J of each layer in ``layers``, float32, on the CPU.
        layers: blocks whose output each matrix carries, rising.
        prompts: number of prompts that the matrices are means over; 0 is unknown.
        source: file that it was read from, or "memory".
        metadata: what the file says of itself: estimator, model_name, corpus, and more.

    Raises:
        InputError: tensors whose shapes don't fit each other, or with a NaN or an infinity.

    >>> lens = JacobianLens(torch.stack([2 * torch.eye(3)]), (0,), 40, "memory")
    >>> lens(Site("resid_post", 0), torch.ones(1, 3)).tolist(), lens.identity_share()["share"].tolist()
    ([[2.0, 2.0, 2.0]], [1.0])
    """

    weights: Float[Tensor, "layer d_model d_model"]
    layers: tuple[int, ...]
    prompts: int
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = list(self.weights.shape)
        if len(shape) != 3 or shape[1] != shape[2] or not shape[0] or shape[0] != len(self.layers):
            raise InputError(f"weights of a Jacobian lens must be [layer, d_model, d_model], one for each layer; got {shape}")
        if list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise InputError(f"layers of a Jacobian lens must rise from 0 or more; got {self.layers}")
        if not bool(self.weights.isfinite().all()):
            raise InputError("weights of a Jacobian lens must be finite; got a NaN or an infinity: fit it again")

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.weights.shape[1]

    @property
    def estimator(self) -> str:
        """How the matrices were estimated."""
        return str(self.metadata.get("estimator", ESTIMATOR))

    @cached_property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the layers and matrices (float32): equal for equal lenses."""
        whole = hashlib.sha256(repr(self.layers).encode())
        for matrix in self.weights:
            whole.update(matrix.float().cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()[:12]

    @property
    def name(self) -> str:
        """What a measurement's provenance calls this lens: its estimator, prompts, source and digest."""
        prompts = counted(self.prompts, "prompt", ",") if self.prompts else "prompts unknown"
        return f"Jacobian lens ({self.estimator}, {prompts}, {self.source}, {self.digest})"

    def __repr__(self) -> str:
        shape = f"{counted(len(self.layers), 'layer')} x d_model {self.d_model}"
        return f"JacobianLens: {shape}; {self.metadata.get('model_name', 'model unknown')}, {self.name}"

    def __call__(self, site: Site, rows: Tensor, /) -> Tensor:
        """J of the site times ``rows`` [..., d_model]; in their dtype and on their device.

        Raises:
            InputError: a site that has no matrix, or rows of another width.
        """
        if not rows.is_floating_point() or rows.shape[-1:] != (self.d_model,):
            raise InputError(
                f"rows must be floating-point and [..., {self.d_model}] for this lens; got {list(rows.shape)} of {rows.dtype}"
            )
        layer = self._layer(site)
        if layer not in self.layers and layer in (self._last or {self.layers[-1] + 1}):
            return rows
        dtype = torch.promote_types(rows.dtype, torch.float32)
        key = rows.device, dtype
        if key not in self._placed:
            self._placed[key] = self.weights.to(*key)
        return (rows.to(dtype) @ self._placed[key][self._index(site, layer)].T).to(rows.dtype)

    def check(self, adapter: Adapter, sites: Sequence[Site], /) -> None:
        """Refuse a model or a site that this lens does not fit.

        Raises:
            InputError: another width or depth, another model's name than the file has, weights that were processed, another
                target than the last layer, or a site without a matrix.
        """
        model, last = adapter.model, adapter.n_layers - 1
        if getattr(model, "compatibility_mode", False) or norm_is_folded(model):
            raise InputError(
                "lens: a Jacobian lens is fitted on the raw residual stream, and this model's weights have been processed; use "
                "a TransformerBridge without enable_compatibility_mode(), or HookedTransformer.from_pretrained_no_processing"
            )
        if adapter.d_model != self.d_model or self.layers[-1] >= last:
            raise InputError(
                f"lens: this Jacobian lens has layers up to {self.layers[-1]}, of d_model {self.d_model}, and belongs to a "
                f"model with more layers; this one has {counted(adapter.n_layers, 'layer')}, of {adapter.d_model}"
            )
        named, own = self.metadata.get("model_name"), getattr(model.cfg, "model_name", None)
        if named is not None and named != own:
            raise InputError(f"lens: this Jacobian lens was fitted for {named!r}, and this model is {own!r}")
        if (target := self.metadata.get("target_layer", last)) != last:
            raise InputError(f"lens: this Jacobian lens carries states to layer {target}, and the model reads layer {last}")
        for site in sites:
            layer = self._layer(site)
            if layer != last:
                self._index(site, layer)
        self._last.add(last)

    def save(self, path: str | Path) -> Path:
        """Write the lens as TransformerLens does, for it or for ``load_jacobian_lens``, and return its path.

        Raises:
            SaveError: the folder cannot be written to, or there is no room; a file that was there stays as it was.

        >>> import tempfile
        >>> lens = JacobianLens(torch.stack([torch.eye(2)]), (0,), 3, "memory", {"corpus": "mine"})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_jacobian_lens(lens.save(Path(folder) / "lens.pt")).digest == lens.digest
        True
        """
        payload = {
            "J": {layer: matrix.clone() for layer, matrix in zip(self.layers, self.weights, strict=True)},
            "n_prompts": self.prompts, "source_layers": list(self.layers), "d_model": self.d_model,
            "metadata": dict(self.metadata),
        }  # fmt: skip
        return write_torch(as_path("path", path), payload, self.weights.nbytes)

    def identity_share(self) -> pd.DataFrame:
        r"""How much of each matrix is the identity: (tr J / d)²·d / ‖J‖², the share of its squared norm that lies along it.

        Returns:
            One line a layer: site, layer, share (0 to 1; 1 for a multiple of the identity, where the lens is the logit lens;
            about 1 / d² for a random matrix).
        """
        matrices = self.weights.double()
        trace = matrices.diagonal(dim1=1, dim2=2).sum(1)
        share = (trace / self.d_model).square() * self.d_model / matrices.square().sum((1, 2))
        return pd.DataFrame({"site": "resid_post", "layer": self.layers, "share": share.tolist()})

    def noise_floor(self, other: JacobianLens) -> pd.DataFrame:
        r"""How far two fits on different prompts are apart: what of a matrix is noise of the fit.

        With J and K the two fits, noise is ‖J - K‖² / (‖J‖² + ‖K‖²): of two independent estimates of one matrix it is the share
        of their squared norms that is estimation error. ``cosine`` is ⟨J, K⟩ / (‖J‖·‖K‖); ``noise_apart`` is the noise of what
        is left without the part along the identity, which any fit finds.

        Args:
            other: another fit with the same layers, such as one on another half of the prompts.

        Returns:
            One line a layer: site, layer, noise (0 for equal fits, 1 for unrelated ones), noise_apart, cosine.

        Raises:
            InputError: other layers or another width.
            InputTypeError: something that is no Jacobian lens.
        """
        other = as_lens(other)
        if not isinstance(other, JacobianLens):
            raise InputTypeError(f"other must be a Jacobian lens; got {other!r}")
        if (other.layers, other.d_model) != (self.layers, self.d_model):
            raise InputError(
                f"other has layers {other.layers} of d_model {other.d_model}, and this lens {self.layers} of {self.d_model}"
            )
        one, two = self.weights.double(), other.weights.double()
        sizes = one.square().sum((1, 2)), two.square().sum((1, 2))
        cosine = (one * two).sum((1, 2)) / (sizes[0] * sizes[1]).sqrt()
        found = {"noise": _apart(one, two), "noise_apart": _apart(_without_identity(one), _without_identity(two))}
        values = {name: value.tolist() for name, value in {**found, "cosine": cosine}.items()}
        return pd.DataFrame({"site": "resid_post", "layer": self.layers, **values})

    @cached_property
    def _placed(self) -> dict[tuple[torch.device, torch.dtype], Tensor]:
        return {}

    @cached_property
    def _last(self) -> set[int]:
        """The last layers of models that it was found to fit, whose states need no matrix."""
        return set()

    def _layer(self, site: Site) -> int:
        """The block whose output this state is."""
        layer = {"resid_post": site.layer, "resid_pre": site.layer - 1}.get(site.name, -1)
        if layer < 0:
            raise InputError(
                f"lens: a Jacobian lens has no matrix for {site}; it carries states after blocks: measure sites='resid_post'"
            )
        return layer

    def _index(self, site: Site, layer: int) -> int:
        if layer not in self.layers:
            shown = ", ".join(map(str, self.layers))
            raise InputError(f"lens: this Jacobian lens has matrices for layers {shown}, and none for {site}; choose layers=")
        return self.layers.index(layer)


def as_lens(lens: Any) -> Any:
    """A lens as measurements take it: an object of another package's ``JacobianLens`` as ours, anything else as it is."""
    matrices = getattr(lens, "jacobians", None)
    if isinstance(lens, type) or not isinstance(matrices, Mapping) or not hasattr(lens, "n_prompts"):
        return lens
    metadata = dict(getattr(lens, "metadata", None) or {})
    if isinstance(estimator := getattr(lens, "estimator", None), str):
        metadata.setdefault("estimator", estimator)
    return _made(matrices, int(lens.n_prompts), "memory", metadata)


def sites_read(sites: Any, lens: Any, layers: Any = None, *, n_layers: int) -> Any:
    """Sites asked for of a model; None is those that a lens reads.

    These are ``embed`` and every ``resid_post``, or of a Jacobian lens the ends of the blocks that it has matrices for, and the
    last one.

    >>> lens = JacobianLens(torch.stack([torch.eye(3)]), (1,), 40, "memory")
    >>> sites_read(None, None, n_layers=4), [str(site) for site in sites_read(None, lens, n_layers=4)]
    (('embed', 'resid_post'), ['resid_post.1', 'resid_post.3'])
    """
    if sites is not None:
        return sites
    lens = as_lens(lens)
    if not isinstance(lens, JacobianLens):
        return ("embed", "resid_post")
    return "resid_post" if layers is not None else [Site("resid_post", i) for i in sorted({*lens.layers, n_layers - 1})]


@steady
def load_jacobian_lens(source: str | Path | Any) -> JacobianLens:
    """A Jacobian lens from a file that TransformerLens or ``jlens`` wrote, or from an object of TransformerLens's class.

    Args:
        source: a ``.pt`` file, an artifact or a checkpoint of a fit; or the object. Nothing in a file is ever run.

    Returns:
        The lens, for ``lens=`` of a measurement.

    Raises:
        FileError: nothing there, damaged, or something else than a Jacobian lens.
        InputTypeError: an object that is no Jacobian lens.

    Source: the formats of TransformerLens 3.9 and 4.3: ``J`` with ``n_prompts`` and ``d_model``, or ``jacobian_sum`` with
    ``n_done``, of which the former is divided by the latter.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"J": {0: torch.eye(2)}, "n_prompts": 3, "d_model": 2}, Path(folder) / "lens.pt")
    ...     load_jacobian_lens(Path(folder) / "lens.pt").name
    'Jacobian lens (jacobian_lens, 3 prompts, lens.pt, 4a993e0f94e0)'
    """
    if not isinstance(source, str | Path):
        found = as_lens(source)
        if isinstance(found, JacobianLens):
            return found
        raise InputTypeError(f"source must be a file, or an object with jacobians and n_prompts; got {source!r}")
    path = to_read("source", source)
    if not path.is_file():
        raise FileError(f"source: there is no file {path}")
    archive = checked_archive(path)
    try:
        payload = torch.load(archive, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen kinds, those of pickle among them
        raise FileError(f"source: {path} cannot be read as tensors ({error}); it is damaged, or no lens") from error
    sums = isinstance(payload, dict) and "jacobian_sum" in payload
    matrices = payload.get("jacobian_sum" if sums else "J") if isinstance(payload, dict) else None
    if not isinstance(matrices, dict) or not matrices:
        raise FileError(f"source: {path} holds neither J, a fitted lens, nor jacobian_sum, the checkpoint of a fit")
    prompts = payload.get("n_done", payload.get("n_prompts", 0)) if sums else payload.get("n_prompts", 0)
    if not isinstance(prompts, int) or (sums and prompts < 1):
        raise FileError(f"source: {path} says that it is of {prompts!r} prompts")
    metadata = dict(payload.get("metadata") or {})
    metadata |= {key: payload[key] for key in ("model_name", "corpus", "target_layer") if key in payload}
    if sums:
        matrices = {layer: matrix / prompts for layer, matrix in matrices.items()}
    try:
        return _made(matrices, prompts, path.name, metadata)
    except (InputError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise FileError(f"source: {path} does not hold a matrix for each layer ({error})") from error


def _made(matrices: Mapping[Any, Tensor], prompts: int, source: str, metadata: Mapping[str, Any]) -> JacobianLens:
    layers = sorted(int(layer) for layer in matrices)
    by_layer = {int(layer): matrix for layer, matrix in matrices.items()}
    weights = torch.stack([by_layer[layer].detach().float().cpu() for layer in layers])
    return JacobianLens(weights, tuple(layers), prompts, source, metadata)


def _apart(one: Tensor, two: Tensor) -> Tensor:
    return (one - two).square().sum((1, 2)) / (one.square() + two.square()).sum((1, 2))


def _without_identity(matrices: Tensor) -> Tensor:
    width = matrices.shape[1]
    eye = torch.eye(width, dtype=matrices.dtype)
    return matrices - matrices.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * eye
