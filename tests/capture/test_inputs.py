from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pytest
import torch

from tl_entropy.capture.inputs import at_hand, pieces, read_text, repeatable
from tl_entropy.errors import InputError, InputTypeError

PAD = 0


def taken(inputs, *, text_column="text", special_ids=frozenset({PAD})):
    """What the pieces hold: texts, paths, and rows as lists."""
    found = pieces(inputs, text_column=text_column, special_ids=special_ids)
    return [piece.value.tolist() if isinstance(piece.value, torch.Tensor) else piece.value for piece in found]


def refused(inputs, error, match, **options):
    with pytest.raises(error, match=match):
        taken(inputs, **options)


# --- texts


def test_a_str_is_one_text_even_where_it_looks_like_a_path(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("inside")
    assert taken(str(file)) == [str(file)]
    assert taken("") == [""]


@pytest.mark.parametrize(
    "inputs",
    [
        ["a", "b"],
        ("a", "b"),
        iter(["a", "b"]),
        (c for c in "ab"),
        {"a": 0, "b": 0}.keys(),
    ],
)
def test_iterables_of_texts(inputs):
    assert taken(inputs) == ["a", "b"]


def arrays_of(texts):
    """The same texts in every kind of array that tables have."""
    column, arrow = pandas.Series(texts, name="text"), pyarrow.array(texts)
    numpy = [np.array(texts), np.array(texts, dtype=object)]
    if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
        numpy.append(np.array(texts, dtype=np.dtypes.StringDType()))
    frames = [column, column.astype("string"), column.astype("category"), column.to_numpy(), column.array, pandas.Index(texts)]
    chunks = pyarrow.chunked_array([texts[:1], texts[1:]])
    return [*numpy, *frames, arrow, arrow.cast(pyarrow.large_string()), arrow.dictionary_encode(), chunks]


@pytest.mark.parametrize(
    "given", arrays_of(["a", "b"]), ids=lambda given: f"{type(given).__name__}-{getattr(given, 'dtype', '')}"
)
def test_arrays_of_texts_are_lists_of_them(given):
    for inputs in (given, [given], {"text": given}):
        found = taken(inputs)
        assert found == ["a", "b"]
        assert {type(text) for text in found} == {str}, "which every tokenizer takes"
        assert at_hand(inputs)
        assert repeatable(inputs)


def test_arrays_with_no_or_two_axes_and_scalars():
    assert taken(np.array([["a", "b"], ["c", "d"]])) == list("abcd")
    for one in (np.array("a"), np.array("a", dtype=object), np.str_("a"), pyarrow.scalar("a")):
        assert taken(one) == ["a"]
        assert at_hand(one)


def test_two_arrays_of_texts_are_no_tokens_with_a_mask():
    assert taken((np.array(["a"]), np.array(["b"]))) == ["a", "b"]


def test_columns_of_tokens_are_rows():
    rows = [[1, 2], [3]]
    for column in (pandas.Series(rows), np.array(rows, dtype=object), pyarrow.array(rows)):
        assert taken({"input_ids": column}) == rows
    assert taken(np.array([torch.tensor([1, 2]), torch.tensor([3])], dtype=object)) == rows
    for ints in (pandas.Series([1, 2]), pyarrow.array([1, 2]), np.array([1, 2], dtype=object)):
        refused(ints, InputTypeError, r"inputs\[0\] must be .*; got int; pass token ids as torch\.tensor")


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_tables_are_refused(library):
    table = {"pandas": pandas.DataFrame, "pyarrow": pyarrow.table}[library]({"text": ["a", "b"]})
    refused(table, InputTypeError, r"is a table .*pass its column of texts")


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pandas.NA, pandas.NaT])
def test_a_row_without_a_text_says_how_to_leave_it_out(missing):
    column = np.array(["a", missing], dtype=object)
    for inputs, where in (
        (column, r"\[1\]"),
        ({"text": column}, r"\['text'\]\[1\]"),
        ([{"text": missing}], r"\[0\]\['text'\]"),
    ):
        refused(inputs, InputTypeError, rf"^inputs{where} must be .*row without a text.*dropna")


def test_a_masked_text_is_a_row_without_one():
    refused(np.ma.array(["a", "b"], mask=[0, 1]), InputTypeError, r"^inputs\[1\] must be .*row without a text")


def test_bytes_are_to_be_decoded():
    for inputs in (b"a", np.array([b"a"]), {"text": b"a"}, pyarrow.array([b"a"])):
        refused(inputs, InputTypeError, "decode")


@pytest.mark.parametrize("bad", [None, 3, 2.5, b"bytes", bytearray(b"x"), True, object()])
def test_what_is_no_text_is_refused_with_its_index_and_type(bad):
    refused(bad, InputTypeError, rf"^inputs must be .* got {type(bad).__name__}")
    refused(["a", "b", bad], InputTypeError, rf"^inputs\[2\] must be .* got {type(bad).__name__}")
    refused(["a", ["b", bad]], InputTypeError, rf"^inputs\[1\]\[1\] must be .* got {type(bad).__name__}")


def test_plain_lists_of_ints_are_told_how_to_pass_tokens():
    refused([5, 6], InputTypeError, r"inputs\[0\].*torch\.tensor")


def test_lists_may_be_nested_once():
    assert taken([["a", "b"], "c", ("d", "e")]) == list("abcde")
    refused([[["a"]]], InputTypeError, r"inputs\[0\]\[0\] is nested too deeply")


def test_all_kinds_may_be_mixed_in_a_generator(tmp_path):
    (tmp_path / "f.txt").write_text("file")

    def mixed():
        yield "a"
        yield ["b", "c"]
        yield torch.tensor([5, 6])
        yield torch.tensor([[7, 8], [9, PAD]]), torch.tensor([[1, 1], [1, 0]])
        yield {"input_ids": [[1, 2], [3]]}
        yield {"text": "d"}
        yield tmp_path / "f.txt"

    assert taken(mixed()) == ["a", "b", "c", [5, 6], [7, 8], [9], [1, 2], [3], "d", tmp_path / "f.txt"]


def test_nothing_is_taken_before_it_is_asked_for():
    asked = []

    def texts():
        for index in range(10_000):
            asked.append(index)
            yield str(index)

    found = pieces(texts(), text_column="text", special_ids=frozenset())
    assert not asked
    next(found), next(found)
    assert asked == [0, 1]


# --- files


def test_a_file_is_one_document_with_its_name(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one\r\ntwo")
    [piece] = pieces(file, text_column="text", special_ids=frozenset())
    assert (piece.value, piece.name) == (file, "a.txt")
    assert read_text(file) == "one\r\ntwo"


def test_a_folder_is_its_files_sorted_without_hidden_ones(tmp_path):
    for name in ["b.txt", "a/z.py", "a/y/x", ".hidden", ".git/config", "a/.secret", "c"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    names = [piece.name for piece in pieces(tmp_path, text_column="text", special_ids=frozenset())]
    assert names == ["a/y/x", "a/z.py", "b.txt", "c"]


def test_missing_empty_and_unreadable_paths(tmp_path):
    refused(tmp_path / "nothing", InputError, "at which there is nothing")
    refused(["a", tmp_path / "nothing"], InputError, r"inputs\[1\] is a path")
    refused(tmp_path, InputError, "holds no files")
    refused(Path("/dev/null"), InputError, "neither")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt is not a UTF-8"):
        read_text(tmp_path / "latin.txt")


# --- tokens


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_token_tensors_of_one_or_more_rows(dtype):
    assert taken(torch.tensor([4, 5], dtype=dtype)) == [[4, 5]]
    assert taken(torch.tensor([[4, 5], [6, 7]], dtype=dtype)) == [[4, 5], [6, 7]]
    assert taken(torch.empty(0, dtype=dtype)) == [[]]
    assert taken(torch.empty(0, 3, dtype=dtype)) == []


def test_arrays_on_disk_are_tokens_too(tmp_path):
    np.array([[4, 5], [6, 7]], dtype=np.uint16).tofile(tmp_path / "t.bin")
    assert taken(np.memmap(tmp_path / "t.bin", dtype=np.uint16, mode="r", shape=(2, 2))) == [[4, 5], [6, 7]]


@pytest.mark.parametrize("as_type", [torch.tensor, np.array, list])
@pytest.mark.parametrize("dtype", [bool, int])
def test_masked_cells_are_dropped_wherever_they_are(as_type, dtype):
    tokens = torch.tensor([[PAD, PAD, 7, 8], [5, 6, PAD, PAD], [5, PAD, PAD, 8], [1, 2, 3, 4], [PAD] * 4])
    mask = (tokens != PAD).numpy().astype(dtype).tolist()
    assert taken((tokens, as_type(mask))) == [[7, 8], [5, 6], [5, 8], [1, 2, 3, 4], []]


def test_a_mask_decides_not_the_id():
    assert taken((torch.tensor([PAD, 5, PAD]), torch.tensor([0, 1, 1]))) == [[5, PAD]]
    assert taken((torch.tensor([[-100, 5]]), torch.tensor([[0, 1]]))) == [[5]]


@pytest.mark.parametrize("rows", [[[5, 6, 0, 0], [5, 6, 7, 8]], [[5, 6, 7, 8], [0, 0, 7, 8]], [[5, 6, 7, 8], [5, 6, 0, 1]]])
def test_rows_that_look_padded_need_a_mask(rows):
    special = frozenset({0, 1})
    for tokens in (torch.tensor(rows), {"input_ids": rows}, [torch.tensor(rows)]):
        refused(tokens, InputError, r"\] begins or ends with several special ids.*mask", special_ids=special)
    assert taken((torch.tensor(rows), torch.ones(2, 4)[:, :].long()), special_ids=special) == rows


def test_rows_that_do_not_look_padded_need_none():
    assert taken(torch.tensor([[0, 5, 6, 0], [0, 7, 0, 8]])) == [[0, 5, 6, 0], [0, 7, 0, 8]]
    assert taken(torch.tensor([[5, 0, 0]])) == [[5, 0, 0]]
    assert taken(torch.tensor([[0], [0]])) == [[0], [0]]
    assert taken({"input_ids": [[5, 0, 0], [5]]}) == [[5, 0, 0], [5]]
    assert taken(torch.tensor([[5, 0, 0], [6, 0, 0]]), special_ids=frozenset()) == [[5, 0, 0], [6, 0, 0]]


@pytest.mark.parametrize("bad", [torch.tensor([1.0, 2.0]), torch.tensor([True, False]), np.array([1.5]), torch.ones(1, 2) * 1j])
def test_tokens_must_be_integers(bad):
    refused(bad, InputTypeError, "must hold integers")


def test_tokens_must_lie_as_they_are_read():
    rows = torch.tensor([[3, 4], [5, 6]])
    refused(
        rows.to_sparse(), InputTypeError, r"a dense tensor; got one of the layout torch\.sparse_coo: pass its \.to_dense\(\)"
    )
    masked = np.ma.array(rows.numpy(), mask=[[0, 0], [0, 1]])
    refused(masked, InputTypeError, r"a masked one: pass \(array\.filled\(0\), ~array\.mask\)")
    assert taken((masked.filled(0), ~masked.mask)) == [[3, 4], [5]]


def test_tokens_must_not_be_negative():
    refused(torch.tensor([[1, 2], [3, -1]]), InputError, r"inputs\[1\].*at least 0; got -1")


@pytest.mark.parametrize("bad", [torch.tensor(5), torch.ones(1, 1, 1, dtype=torch.long), np.ones((1, 1, 1), dtype=int)])
def test_tokens_must_have_one_or_two_axes(bad):
    refused(bad, InputError, "shape")


def test_masks_must_fit():
    tokens = torch.tensor([[1, 2], [3, 4]])
    refused((tokens, torch.ones(2, 3).long()), InputError, r"shape of its tokens, \[2\]; got \[3\]")
    refused((tokens, torch.ones(1, 2).long()), InputError, "one row for each of the 2 rows")
    refused((tokens, tokens), InputError, "only 0 and 1; two tensors of tokens go into a list")
    refused((tokens, torch.ones(2, 2)), InputTypeError, "the mask of .* must hold integers")
    refused((tokens, "no"), InputTypeError, "the mask of inputs must be a tensor")


def test_a_list_of_two_tensors_is_two_documents():
    assert taken([torch.tensor([1, 2]), torch.tensor([1, 1])]) == [[1, 2], [1, 1]]


# --- mappings


def test_a_tokenizers_output():
    class Encoding(dict):
        """Like a BatchEncoding: any Mapping will do."""

    ids, mask = [[PAD, 4, 5], [6, 7, 8]], [[0, 1, 1], [1, 1, 1]]
    assert taken({"input_ids": ids, "attention_mask": mask}) == [[4, 5], [6, 7, 8]]
    assert taken(Encoding(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))) == [[4, 5], [6, 7, 8]]
    assert taken({"input_ids": [[1, 2, 3], [4], []]}) == [[1, 2, 3], [4], []]
    assert taken({"input_ids": [[1, 2], [4]], "attention_mask": [[1, 0], [1]]}) == [[1], [4]]
    assert taken({"input_ids": [1, 2], "attention_mask": [1, 1], "text": "x"}) == [[1, 2]]
    assert taken({"input_ids": [torch.tensor([1, 2]), torch.tensor([3])]}) == [[1, 2], [3]]


@pytest.mark.parametrize("bad", [None, "text", [None], [1.5, 2.5], [["a"]], [[1], 2], [[[1]]]])
def test_input_ids_that_are_none(bad):
    with pytest.raises((InputError, InputTypeError), match="inputs"):
        taken({"input_ids": bad})


def test_text_columns():
    assert taken([{"text": "a"}, {"text": "b"}]) == ["a", "b"]
    assert taken({"text": ["a", "b"]}) == ["a", "b"]
    assert taken([{"code": "a"}], text_column="code") == ["a"]
    refused([{"code": "a", "n": 1}], InputError, r"inputs\[0\] has no column 'text', only \['code', 'n'\]")
    refused([{"text": "a"}, {"text": None}], InputTypeError, r"inputs\[1\]\['text'\] must be a str; got NoneType")
    refused({"text": ["a", 5]}, InputTypeError, r"inputs\['text'\]\[1\] must be a str; got int")


def test_hugging_face_datasets():
    datasets = pytest.importorskip("datasets")
    rows = {"text": ["a", "b", "c"], "n": [1, 2, 3]}
    found = datasets.Dataset.from_dict(rows)
    for source in (found, found.to_iterable_dataset(), found["text"], found[:], [found], (row for row in found)):
        assert taken(source) == ["a", "b", "c"]
    for source in (found, found.to_iterable_dataset()):
        refused(source, InputError, r"no column 'code', only \['text', 'n'\]", text_column="code")
    refused(datasets.DatasetDict(train=found, test=found), InputTypeError, r"inputs\['train'\] of \['train', 'test'\]")
    refused(datasets.IterableDatasetDict(train=found.to_iterable_dataset()), InputTypeError, "splits")
    tokenised = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]]})
    for source in (tokenised, tokenised.with_format("torch"), tokenised.with_format("numpy"), tokenised[:]):
        assert taken(source) == [[1, 2], [3]]


# --- what is known beforehand


def test_at_hand_and_repeatable():
    tensor = torch.tensor([1])
    for inputs in ("a", ["a", ("b",)], tensor, (tensor, tensor), {"text": "a"}, Path("x"), np.ones(1), None, b"x", 5):
        assert at_hand(inputs)
        assert repeatable(inputs)
    for inputs in ((c for c in "ab"), [iter("ab")], ["a", ("b", (c for c in "cd"))], map(str, "ab")):
        assert not at_hand(inputs)
        assert not repeatable(inputs)
    assert not at_hand({"a"})
    assert repeatable({"a"})


class Once:
    """No iterator itself, but it gives the same one away each time."""

    def __init__(self, values):
        self.values = iter(values)

    def __iter__(self):
        return self.values


class Again:
    def __iter__(self):
        yield from "ab"


def test_an_object_that_gives_the_same_iterator_away_is_not_repeatable():
    once = Once("ab")
    assert not repeatable(once)
    assert not repeatable(["c", once])
    assert taken(once) == ["a", "b"], "nothing was used up"
    assert repeatable(Again())


def test_a_data_loader_is_not_asked_for_iterators():
    class Loader(Again):
        def __len__(self):
            return 2

        def __iter__(self):
            pytest.fail("which starts workers")

    assert repeatable(Loader())


def test_data_sets_are_repeatable_and_nothing_of_them_is_read():
    datasets = pytest.importorskip("datasets")
    read = []

    def rows():
        for text in "ab":
            read.append(text)
            yield {"text": text}

    whole = datasets.Dataset.from_dict({"text": ["a", "b"]})
    for source in (whole, whole["text"], whole.to_iterable_dataset()):
        assert repeatable(source)
        assert taken(source) == ["a", "b"]
    streaming = datasets.IterableDataset.from_generator(rows)
    read.clear()
    assert repeatable(streaming)
    assert read == []
    assert taken(streaming) == ["a", "b"]
