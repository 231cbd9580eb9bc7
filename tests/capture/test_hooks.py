"""Passes on one model: each owns its hooks, waits its turn, and is refused inside another."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.capture import hooks
from tl_entropy.errors import ModelError

pytestmark = pytest.mark.model


def model():
    return cached_model("gpt2", kinds()[0])


def entropy(tokens, **options):
    return tle.lens_entropy(model(), tokens, sites="resid_post", progress=False, batch_size=1, **options).entropy


def test_threads_get_their_own_numbers():
    rows = [torch.randint(1, 300, (6, 12), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    zeroed = tle.ablate("mlp_out.1")
    calls = [(rows[0], {}), (rows[1], {"interventions": zeroed}), (rows[2], {}), (rows[0], {"interventions": zeroed})]
    alone = [entropy(tokens, **options) for tokens, options in calls]
    assert not torch.equal(alone[0], alone[3]), "this test has something to mix up"
    found = [None] * len(calls)
    together = threading.Barrier(len(calls))

    def run(i):
        together.wait()
        found[i] = entropy(calls[i][0], **calls[i][1])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, alone, strict=True))


def test_a_pass_inside_a_hook_of_another_is_refused_by_that_name():
    def measures(activation, hook):
        tle.lens_entropy(model(), torch.tensor([[5, 6]]), progress=False)

    tokens = torch.tensor([[5, 6, 7]])
    with pytest.raises(ModelError, match="this model is being measured already, and this call is made inside one of its hooks"):
        entropy(tokens, interventions=("blocks.0.hook_resid_pre", measures))
    assert not any(point.fwd_hooks for point in model().hook_dict.values())
    other = tle.demo_model()

    def measures_another(activation, hook):
        seen.append(tle.lens_entropy(other, "import os", progress=False).n_tokens)

    seen = []
    plain = entropy(tokens)
    assert torch.equal(entropy(tokens, interventions=("blocks.0.hook_resid_pre", measures_another)), plain)
    assert seen == [2]


def test_every_pass_removes_its_own_hooks_alone():
    point = model().hook_dict["blocks.1.hook_resid_post"]
    fired = []
    with hooks.hooked([(point, lambda activation, hook: fired.append("outer"))]):
        with hooks.hooked([(point, lambda activation, hook: fired.append("inner"))]):
            model()(torch.tensor([[5, 6]]))
        model()(torch.tensor([[5, 6]]))
    model()(torch.tensor([[5, 6]]))
    assert fired == ["outer", "inner", "outer"]


def test_turns_are_forgotten_with_their_model():
    class Model:
        pass

    one = Model()
    turns = hooks.turns(one)
    assert hooks.turns(one) is turns
    key = id(one)
    del one
    gc.collect()
    assert key not in hooks._turns
