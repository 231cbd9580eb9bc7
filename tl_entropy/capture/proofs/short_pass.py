"""A short pass of which everything small is kept: what proofs of a model's parts look at.

A dozen tokens go through the model once, and nobody's hooks fire. Nothing is claimed here.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from tl_entropy.capture.hooks import hooked
from tl_entropy.capture.runner import Runner
from tl_entropy.sites import Site
from tl_entropy.torch_state import cached_property

STREAM = ("resid_pre", "resid_mid", "resid_post")
PARTS = ("attn_out", "mlp_out")


class ShortPass:
    """What came past the hooks of a model on a short row of tokens, run when it is first looked at.

    Args:
        runner: runs the model.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __call__(self, name: str, layer: int) -> Tensor | None:
        """What came past a site, raw, as TransformerLens gives it; None where there is no hook, or a silent one."""
        return self._seen.get(Site(name, layer))

    def beside(self, layer: int) -> dict[str, Tensor]:
        """What each module of a block gives, [batch, pos, d_model], by the module's name; from a pass of its own."""
        runner, points = self.runner, self.runner.points
        start = f"{runner.stack.blocks}.{layer}."
        names = [name for name in points if name.startswith(start) and name.endswith(".hook_out") and name.count(".") == 3]
        seen = glimpse(runner, names)
        states = self("resid_pre", layer)
        whole = {name: x for name, x in seen.items() if states is not None and x.shape == states.shape}
        return {name.removeprefix(start).removesuffix(".hook_out"): x for name, x in whole.items()}

    def comes_behind(self, name: str, other: str, layer: int) -> bool:
        """Whether a site of a block is passed later than another of it; False where one of them is not seen."""
        order = [site.name for site in self._seen if site.layer == layer]
        return name in order and other in order and order.index(name) > order.index(other)

    @cached_property
    def _seen(self) -> dict[Site, Tensor]:
        return self._look()

    def _look(self) -> dict[Site, Tensor]:
        """The sites in the order in which they are passed."""
        runner, points = self.runner, self.runner.points
        names = {
            Site(name, layer): runner.hook_of(Site(name, layer), points)
            for name in (*STREAM, *PARTS, "z", "pattern", "post")
            for layer in range(runner.n_layers)
        }
        seen = glimpse(runner, names.values())
        silent = [site for site, name in names.items() if site.name == "resid_post" and name not in seen]
        if silent and runner.found_elsewhere(silent):
            return self._look()
        order = {name: place for place, name in enumerate(seen)}
        known = sorted((site for site, name in names.items() if name in seen), key=lambda site: order[names[site]])
        return {site: seen[names[site]] for site in known}


def glimpse(runner: Runner, names: Iterable[str]) -> dict[str, Tensor]:
    """What comes past hooks of these names on a short row of tokens, as far as they are there, fire, and give tensors."""
    points, row = runner.points, runner.short_row()
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        def look(activation: Tensor, hook: object) -> None:
            if isinstance(activation, Tensor):
                seen[name] = activation.detach().clone()  # the same memory may be written to later in the pass

        hooks.append((points[name], look))

    hooks: list = []
    for name in dict.fromkeys(names):
        if name in points:
            keep(name)
    with runner.proving(), hooked(hooks):
        runner.state_and_logits(row, runner.last_site)  # without a mask, which would have to be proved inside
    return seen
