"""How varied and how balanced sets of captions are, side by side.

All sets are brought to one size first, because every number here depends on it. Sentences become unit vectors, k-means finds clusters
of the sets together, and each set is told by how it falls into them:

    coverage top 5, top 20   share of a set in its 5 or 20 largest clusters, where there are more; low = balanced
    entropy                  H = -sum p ln p of its shares; effective = exp(H) clusters; balance = H / ln k
    empty                    share of clusters in which it has nothing
    distance                 mean cosine distance of two of its captions
    distinct-1, -2           different words, and pairs of words, as a share of all of them
    unique, words, length    different captions (a share), different words, mean number of words

Source: Synth², arXiv:2403.07750, compares coverage and balance of clusters; how it does so in detail is not public. Intervals are of
a bootstrap over captions, about the value rather than about the bootstrap's mean, which for these numbers is biased.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from reverie import pairs, seeds
from reverie.arms import Arm
from reverie.captions.checks import same
from reverie.captions.corpus import ReadCorpus
from reverie.datasets.few_shot import check_store, shots_store
from reverie.errors import InputError
from reverie.evaluate.metrics.frechet import about
from reverie.recaption.mix import Mix
from reverie.stage import Job, Role, StepContext
from reverie.store import results, tables
from reverie.store.sources import counted

Floats = npt.NDArray[np.float64]
Embed = Callable[[list[str]], Floats]

DIMENSIONS = 50  # of vectors that are clustered
NUM_DRAWS = 200  # of the bootstrap
MAX_SIZE = 20_000  # captions of a set that are compared
NO_LIMIT = 1_000_000  # characters and words of a caption: a description may be long
COVERAGE = {"coverage top 5": 5, "coverage top 20": 20}  # metric -> clusters that it is about
SHARES = (*COVERAGE, "balance", "empty", "distinct-1", "distinct-2", "unique")


@dataclass(frozen=True)
class Value:
    """A number with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Diversity:
    """One set of captions beside others."""

    name: str
    total: int  # captions that it has
    size: int  # that were compared
    values: dict[str, Value]
    shares: list[float]  # in its clusters, the largest first, the mean over the seeds


def read_captions(source: str, max_texts: int = MAX_SIZE * 10) -> list[str]:
    """Captions of a file or a run, as a path, or as PATH:COLUMN for a column of the file's or of the run's tables.

    Raises: InputError for what is neither, or has no captions.
    """
    path, column = split_source(source)
    if tables.exists(path / "captions.lance") or tables.exists(path / "pairs.lance"):
        return _of_run(path, column, source)
    if path.is_dir():
        raise InputError(f"{path} is no run and no file of captions")
    corpus = ReadCorpus(path, text_column=column, max_chars=NO_LIMIT, max_words=NO_LIMIT, distinct=False)
    try:
        return corpus.texts(max_texts)
    except InputError as error:  # which names a flag of imports
        said = str(error).replace("give as --text-column", "name as FILE:COLUMN")
        raise InputError(said.replace("say with --text-column", "say as FILE:COLUMN")) from error


def split_source(source: str) -> tuple[Path, str | None]:
    """PATH or PATH:COLUMN as its parts."""
    path, colon, column = source.rpartition(":")
    if colon and not Path(source).exists() and path and "/" not in column:
        return Path(path), column
    return Path(source), None


def _of_run(folder: Path, column: str | None, source: str) -> list[str]:
    name = column or "text"
    for table in (folder / "captions.lance", folder / "pairs.lance"):
        if tables.exists(table) and name in tables.column_names(table):
            found = [
                text.strip()
                for part in tables.scan(table, [name], f"status = '{pairs.OK}'")
                for text in part[name].to_pylist()
                if isinstance(text, str) and text.strip()
            ]
            if found:
                return found
    raise InputError(f"{source} has no captions" + (f" in a column {column!r}" if column else ""))


def word_vectors(texts: list[str]) -> Floats:
    """Unit rows (n, at most 50) from the words alone: tf-idf and its first singular vectors, fitted on these texts."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    size = min(DIMENSIONS, min(table.shape) - 1)
    rows = TruncatedSVD(size, random_state=0).fit_transform(table) if size > 1 else table.toarray()
    return _unit(rows)


def encoder_vectors(name: str, device: str = "cpu") -> Embed:
    """Unit rows from the text tower of an encoder, brought to 50 dimensions on all sets together. Raises ModelError, UnknownName."""
    from reverie.models.encoder import open_encoder

    encoder = open_encoder(name, device)

    def embed(texts: list[str]) -> Floats:
        from sklearn.decomposition import PCA

        rows = encoder.texts(texts).double().cpu().numpy()
        size = min(DIMENSIONS, *rows.shape)
        return _unit(PCA(size, random_state=0).fit_transform(rows)) if size < rows.shape[1] else _unit(rows)

    return embed


def compare(
    sets: Mapping[str, Sequence[str]],
    embed: Embed = word_vectors,
    clusters: int = 50,
    num_seeds: int = 5,
    draws: int = NUM_DRAWS,
    size: int = 0,
    progress: Callable[..., None] = lambda *_: None,
) -> list[Diversity]:
    """Each set beside the others.

    Args:
        clusters: k of k-means; at most a quarter of the captions of a set.
        num_seeds: how often captions are drawn and clustered; values are means over them.
        size: captions of each set to compare; as many as the smallest has, when 0.
    Raises: InputError for a set that is too small.
    """
    smallest = min(sets, key=lambda name: len(sets[name]))
    asked, size = size, min(size or MAX_SIZE, MAX_SIZE, len(sets[smallest]))
    if clusters < 2 or num_seeds < 1 or draws < 2:
        raise InputError("clusters and draws must be at least 2, and seeds at least 1")
    if size < 4 * clusters:
        few = f"--size {asked:,} takes" if 0 < asked <= size else f"{smallest} has {counted(size, 'captions')},"
        raise InputError(
            f"{few} too few for {clusters} clusters; give at least {4 * clusters:,}, or fewer clusters (--clusters)"
        )
    names, rounds = list(sets), []
    for seed in range(num_seeds):
        progress(seed, num_seeds)
        rounds.append(_round([list(sets[name]) for name in names], embed, clusters, seed, draws, size))
    progress(num_seeds, num_seeds)
    found = []
    for place, name in enumerate(names):
        own = [each[place] for each in rounds]
        values = {metric: _mean([one.numbers[metric] for one in own], metric) for metric in own[0].numbers}
        shares = np.mean([np.sort(one.shares)[::-1] for one in own], axis=0)
        found.append(Diversity(name, len(sets[name]), size, values, shares.tolist()))
    return found


def in_top_clusters(
    texts: Sequence[str], clusters: int, top: int, size: int, seed: int, embed: Embed = word_vectors
) -> list[int]:
    """Which captions a skewed set of this size takes: drawn from the ``top`` largest of k-means' clusters alone.

    Raises: InputError if these hold too few.
    """
    labels = _clustered(embed(list(texts)), clusters, seed)
    largest = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")[:top]
    inside = np.flatnonzero(np.isin(labels, largest))
    if len(inside) < size:
        raise InputError(
            f"the {top} largest of {clusters} clusters hold {len(inside):,} captions, and {size:,} are wanted; write more"
        )
    drawn = np.random.default_rng(seeds.derive("top clusters", seed)).permutation(inside)[:size]
    return [int(at) for at in np.sort(drawn)]


@dataclass(frozen=True)
class MeasureDiversity(Job):
    """The captions of a run beside those of human pairs -> results.jsonl, by the words of captions alone."""

    role: ClassVar[Role] = "score"

    store: Path | str  # folder of human pairs, or the step that took them
    clusters: int = 50  # fewer where captions are few
    num_seeds: int = 5
    mix: Mix | None = None  # captions of human pairs that are read; their own text when None

    def check(self) -> None:
        """Raises InputError for a store that is not there, or lacks captions of the mix."""
        check_store(self.store)
        if self.mix and isinstance(self.store, Path):
            self.mix.usable(self.store / "pairs.lance")

    def run(self, context: StepContext) -> None:
        """Compare, and write down each number with its interval; a word where captions are too few."""
        sets = {
            "written": _usable(context.captions),
            "people": _usable(shots_store(context, self.store), self.mix),
        }
        least = min(map(len, sets.values()))
        clusters = min(self.clusters, least // 4)
        results.drop(context.results, context.step)
        if clusters < 2:
            context.report("told", text=f"{least} captions are too few to say how varied they are")
            return
        found = compare(
            sets,
            clusters=clusters,
            num_seeds=self.num_seeds,
            progress=lambda done, total: context.report("progress", done=done, total=total),
        )
        # Who wrote the captions of a mix is not known; captioners may have.
        people = f"captions of the human pairs ({self.mix})" if self.mix else "captions of people"
        labels = {"written": "captions of the language model", "people": people}
        records = []
        for one in found:
            arm = Arm(one.name, labels[one.name])
            record = results.about(
                context,
                self,
                arm,
                "diversity",
                split="all",
                num_train=one.size,
                details={"captions": one.total, "clusters": clusters},
            )
            for metric, value in one.values.items():
                details = {"captions": one.total, "clusters": clusters, "low": value.low, "high": value.high}
                records.append(record(metric=metric, value=value.value, details=details))
        results.append(context.results, *records)


def _usable(table: Path, mix: Mix | None = None) -> list[str]:
    """A caption of each row that has one: its text, or one of the mix, drawn as for a visit of the row."""
    found = list[str]()
    for part in tables.scan(table, ["pair_id", *mix.columns] if mix else ["text"], f"status = '{pairs.OK}'"):
        for row in part.to_pylist():
            if mix is None:
                text = row["text"] or ""
            else:
                text = mix.draw(row, seeds.derive("diversity", row["pair_id"])) if mix.all(row) else ""
            if text.strip():
                found.append(text.strip())
    return found


@dataclass(frozen=True)
class _Once:
    """One set under one seed: metric -> its value and those of the bootstrap."""

    numbers: dict[str, tuple[float, Floats]]
    shares: Floats


def _round(sets: list[list[str]], embed: Embed, clusters: int, seed: int, draws: int, size: int) -> list[_Once]:
    drawn = []
    for number, texts in enumerate(sets):
        rng = np.random.default_rng(seeds.derive("diversity", seed, number))
        drawn.append([texts[at] for at in rng.permutation(len(texts))[:size].tolist()])
    rows = embed([text for texts in drawn for text in texts])
    labels = _clustered(rows, clusters, seed)
    found = []
    for number, texts in enumerate(drawn):
        mine = slice(number * size, (number + 1) * size)
        rng = np.random.default_rng(seeds.derive("bootstrap", seed, number))
        # How often each caption comes in each draw; the first row is the set itself.
        weights = np.concatenate([np.ones((1, size)), rng.multinomial(size, np.full(size, 1 / size), draws)])
        found.append(_measured(texts, rows[mine], labels[mine], clusters, weights))
    return found


def _measured(texts: list[str], rows: Floats, labels: npt.NDArray[np.int64], clusters: int, weights: Floats) -> _Once:
    size = len(texts)
    member = sp.csr_matrix((np.ones(size), (np.arange(size), labels)), shape=(size, clusters))
    shares = np.asarray(weights @ member) / size
    ranked = -np.sort(-shares, axis=1)
    entropy = -np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1)), 0).sum(1)
    sums, squares = weights @ rows, weights.sum(1)
    own = (weights**2).sum(1)  # a caption that comes twice is compared with itself
    numbers: dict[str, Floats] = {
        **{name: ranked[:, :top].sum(1) for name, top in COVERAGE.items() if covers(name, clusters)},
        "entropy": entropy,
        "effective": np.exp(entropy),
        "balance": entropy / np.log(clusters),
        "empty": (shares == 0).mean(1),
        "distance": 1 - ((sums**2).sum(1) - own) / (squares**2 - own),
    }
    words = [re.findall(r"\w+", text.casefold()) for text in texts]
    lengths = np.array([len(each) for each in words], dtype=np.float64)
    there = (weights > 0).astype(np.float64)
    for order in (1, 2):
        grams = [list(zip(*(each[at:] for at in range(order)), strict=False)) for each in words]
        known = {gram: number for number, gram in enumerate(dict.fromkeys(gram for each in grams for gram in each))}
        total = weights @ np.array([len(each) for each in grams], dtype=np.float64)
        table = sp.csr_matrix(
            (
                np.ones(sum(map(len, grams))),
                (
                    np.repeat(np.arange(size), [len(each) for each in grams]),
                    [known[gram] for each in grams for gram in each],
                ),
            ),
            shape=(size, max(1, len(known))),
        )
        different = np.array([(row @ table > 0).sum() for row in there], dtype=np.float64)
        numbers[f"distinct-{order}"] = different / np.maximum(total, 1)
        if order == 1:
            numbers["words"] = different
    forms = np.unique([same(text) for text in texts], return_inverse=True)[1]
    # Of the captions that a draw holds, as a draw repeats some by itself.
    numbers["unique"] = np.array([len(np.unique(forms[row > 0])) / (row > 0).sum() for row in weights])
    numbers["length"] = weights @ lengths / size
    return _Once({name: (float(value[0]), value[1:]) for name, value in numbers.items()}, shares[0])


def covers(metric: str, clusters: int) -> bool:
    """Whether a metric says anything with so many clusters: the 20 largest of 10 hold everything."""
    return clusters > COVERAGE.get(metric, 0)


def _clustered(rows: Floats, clusters: int, seed: int) -> npt.NDArray[np.int64]:
    from sklearn.cluster import MiniBatchKMeans

    if len(rows) < clusters:
        raise InputError(f"{len(rows):,} captions do not make {clusters} clusters; give more, or fewer clusters")
    # On one sample of both sets, a batch holds most of it; several starts, as one can be unlucky.
    model = MiniBatchKMeans(clusters, random_state=seed, n_init=3, batch_size=4096)
    labels: Any = model.fit_predict(rows)
    return labels.astype(np.int64)  # type: ignore[no-any-return]


def _mean(rounds: Sequence[tuple[float, Floats]], metric: str) -> Value:
    """Over the seeds. The bootstrap's spread may go further than the number itself can."""
    value, low, high = np.mean([about(*one) for one in rounds], axis=0).tolist()
    return Value(value, max(low, 1.0 if metric == "effective" else 0.0), min(high, 1.0) if metric in SHARES else high)


def _unit(rows: Any) -> Floats:
    rows = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)  # type: ignore[no-any-return]
