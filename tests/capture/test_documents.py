import warnings

import numpy as np
import pytest
import torch
from letters import BOS, Letters, Shuffled, corpus_of, ids

from tl_entropy.capture.documents import Rereadable
from tl_entropy.errors import InputError, InputTypeError

# --- ids that the model does not have


def test_a_bos_that_is_no_token_of_the_model_is_named():
    with pytest.raises(InputError, match=r"the BOS to put before inputs has the id 0, .* from 0 to -1.*prepend_bos=False"):
        list(corpus_of("ab", Letters(n_ids=0)))
    beyond = Letters(begin=200, n_ids=200)
    with pytest.raises(InputError, match=r"the BOS to put before inputs\[1\] has the id 200.* from 0 to 199"):
        list(corpus_of([torch.tensor([5]), "ab"], beyond))
    assert [w.tokens.tolist() for w in corpus_of("ab", beyond, prepend_bos=False)] == [ids("ab")]


@pytest.mark.parametrize("inputs", ["abc", ["abc"], torch.tensor(ids("abc"))])
def test_ids_beyond_the_model_are_named_with_their_place(inputs):
    with pytest.raises(InputError, match=r"ids from 0 to 97, .*inputs.* has 98 at place 1: .*belong together"):
        list(corpus_of(inputs, Letters(n_ids=98)))


def test_special_ids_by_hand_take_the_place_of_the_tokenizers():
    a, b, c = ids("abc")
    assert [w.counted.tolist() for w in corpus_of("a|bc", special_ids=(b,))] == [[False, True, True, False, True]]
    with pytest.raises(InputError, match=r"inputs\[0\] begins or ends with several special ids"):
        list(corpus_of(torch.tensor([[a, b, b], [a, a, c]]), special_ids=np.array([b])))
    with pytest.raises(InputError, match="special_ids must be an int from 0 to 1114111; got -1"):
        corpus_of("a", special_ids=[-1])
    with pytest.raises(InputTypeError, match="special_ids must be a collection of ids"):
        corpus_of("a", special_ids=3)


# --- documents that are read several times


@pytest.mark.parametrize(
    ("again", "message"),
    [
        (["b", "a", "cc"], "document 0 is not the one that it was before"),
        (["a", "b", "c"], "document 2 is not"),
        (["a", "b"], "there are 2 documents, and there were 3 before"),
        (["a", "b", "cc", "d"], "there are more than the 3 documents"),
        (["a", "b", torch.tensor(ids("cc"))], "document 2 is not"),
        ([], "there are 0 documents"),
    ],
)
def test_inputs_that_change_between_readings(again, message):
    inputs = Rereadable(Shuffled(["a", "b", "cc"], again))
    list(corpus_of(inputs))
    with pytest.raises(InputError, match=f"inputs changed between two readings: {message}.*pass a list"):
        list(corpus_of(inputs, context_of(2)))


def test_inputs_that_stay_may_be_read_in_any_windows():
    texts = ["abc", "", torch.tensor([BOS, 5, 6]), "^de"]
    inputs = Rereadable(texts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 empty document")
        for encoder, prepend_bos in ((Letters(), True), (context_of(3), False), (Letters(), False)):
            list(corpus_of(inputs, encoder, prepend_bos=prepend_bos))
    partly = Rereadable(texts)
    next(iter(corpus_of(partly)))
    next(iter(corpus_of(partly)))
    with pytest.raises(InputError, match=r"hold an iterator.*list\(inputs\)"):
        Rereadable(iter(texts))
    assert Rereadable.of(inputs) is inputs


def context_of(tokens):
    return Letters(context=tokens)


def test_digests_say_which_documents_were_read_in_any_order_and_windows():
    def digest(inputs, **options):
        corpus = corpus_of(inputs, **options)
        list(corpus)
        return corpus.report.digest

    assert digest(["abc", "de"]) == digest(["de", "abc"], window=2, prepend_bos=False)
    different = [["abc", "de"], ["abc", "ed"], ["abcde"], ["abc"], ["abc", "de", "de"], [torch.tensor(ids("abc")), "de"]]
    assert len({digest(inputs) for inputs in different}) == len(different)
