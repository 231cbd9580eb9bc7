"""Words with the white space behind them, beside the packages of the field: the same numbers where the same tokens begin words.

Of minicons these are the tokens that begin with the sign for a space, and of psycholing-metrics the end of a text beside them;
here every white space and every special token ends a word. So the set is theirs for these tests.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
from tiny_models import VOCAB, hf_model, tiny_tokenizer

import tl_entropy as tle
from tl_entropy.capture.vocabulary import Vocabulary

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]
TEXTS = ["the cat sat on the mat, and the dog sat", "def f(x): return x + 1"]


@pytest.fixture
def source():
    return hf_model("gpt2")


def words(monkeypatch, source, text, *, end):
    """Our words, of a model whose tokens begin words as the other package says."""
    from transformer_lens.model_bridge import TransformerBridge

    vocabulary = tiny_tokenizer().get_vocab()
    begins = torch.zeros(VOCAB, dtype=torch.bool)
    begins[[i for piece, i in vocabulary.items() if piece[0] == "Ġ"] + [0] * end] = True
    monkeypatch.setattr(Vocabulary, "word_edges", (begins, torch.zeros(VOCAB, dtype=torch.bool)))
    model = TransformerBridge.boot_transformers("tiny/gpt2", hf_model=source, tokenizer=tiny_tokenizer(), device="cpu")
    found = tle.token_surprisal(model, text, words=True, prepend_bos=True, progress=False).word_surprisal(final=True)
    return list(found.words), found.surprisal[:, 0]


@pytest.mark.parametrize("text", TEXTS)
def test_words_are_those_of_minicons_a_published_package(monkeypatch, source, text):
    scorer = pytest.importorskip("minicons.scorer", exc_type=ImportError)
    theirs = scorer.IncrementalLMScorer(source, "cpu", tokenizer=tiny_tokenizer())
    [scores] = theirs.word_score_tokenized(text, str.split, bow_correction=True, bos_token=True, surprisal=True)
    mine, costs = words(monkeypatch, source, text, end=False)
    assert mine == [word for word, _ in scores] == text.split()
    torch.testing.assert_close(costs, torch.tensor([score for _, score in scores]).double(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("text", TEXTS)
def test_words_but_the_first_are_those_of_psycholing_metrics_a_published_package(monkeypatch, source, text):
    spec = importlib.util.find_spec("psycholing_metrics")  # not imported: its other parts need spaCy
    if spec is None:
        pytest.skip("psycholing-metrics is not installed")
    place = f"{spec.submodule_search_locations[0]}/pimentel_word_prob/wordsprobability/models/bow_lm.py"
    module = importlib.util.spec_from_file_location("bow_lm", place)
    package = importlib.util.module_from_spec(module)
    module.loader.exec_module(package)

    class Theirs(package.BaseBOWModel):
        def _get_n_logits(self):
            return VOCAB

    found, _ = Theirs(source, tiny_tokenizer()).get_predictions(text)
    is_bow = torch.tensor([piece[0] == "Ġ" for piece in found["subword"]])
    is_eow = torch.cat([is_bow[1:], torch.tensor([True])])
    costs = {name: torch.tensor(found[name]).double() for name in ("surprisal", "bow_fix", "eow_fix")}
    tokens = costs["surprisal"] - costs["bow_fix"] * is_bow + costs["eow_fix"] * is_eow
    sums = torch.zeros(int(is_bow.sum()) + 1, dtype=torch.float64).index_add(0, is_bow.long().cumsum(0), tokens)
    mine, own = words(monkeypatch, source, text, end=True)
    assert mine == text.split()
    torch.testing.assert_close(own, sums, atol=2e-5, rtol=1e-5)  # their first word has a further term, left out of this sum
