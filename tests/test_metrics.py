"""Metrics against golden vectors, a plain reference, and all tie orders of small cases."""
import itertools
import json
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import InputError
from utils.retrieval import compiled, hamming, metrics
from utils.retrieval.asymmetric import refine
from utils.retrieval.hamming import pack
from utils.retrieval.metrics import AP, curves, evaluate, format_line
from utils.retrieval.rank_kernels import _SAMPLE
from utils.retrieval.vectors import GROUP


# golden vectors -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def gold(golden):
    return golden("metrics")


def cases(gold, pattern):
    """(match, value, evaluate's first five arguments) of every key ``{labels}/{bits}/...`` that fits ``pattern``."""
    found = []
    for key in gold.files:
        match = re.fullmatch(r"(?P<labels>[^/]+)/(?P<bits>\d+)/" + pattern, key)
        if match:
            bits = int(match["bits"])
            labels = [gold[f"labels/{match['labels']}/{side}"] for side in ("query", "db")]
            codes = [pack(gold[f"codes/{bits}/{side}"]) for side in ("query", "db")]
            found.append((match, gold[key], (*codes, *labels, bits)))
    assert found, f"no key of the golden file fits {pattern}"
    return found


def as_topk(k, items):
    """-1 drops the last item: a slice of the reference."""
    return items - 1 if int(k) == -1 else int(k)


@pytest.mark.parametrize("family, atol", [("map_paddle_hashnet", 1e-9), ("map_dhn_pytorch", 1e-6),
                                          ("djsrh_top_map", 1e-9)])
def test_golden_map(gold, family, atol):
    for match, value, data in cases(gold, family + r"/top(?P<k>-?\d+)"):
        result = evaluate(*data, topk=as_topk(match["k"], len(data[1])))
        np.testing.assert_allclose(result["mAP"], value, rtol=0, atol=atol, err_msg=match[0])


def test_golden_djsrh_map(gold):
    for match, value, data in cases(gold, "djsrh_map"):
        np.testing.assert_allclose(evaluate(*data)["mAP"], value, rtol=0, atol=1e-9, err_msg=match[0])


def test_golden_thuml_map(gold):
    for match, value, data in cases(gold, r"thuml_map/top(?P<k>\d+)"):
        result = evaluate(*data, topk=int(match["k"]), no_hit="skip")
        np.testing.assert_allclose(result["mAP"], value, rtol=0, atol=1e-9, err_msg=match[0])


def test_golden_tie_orders(gold):
    for match, value, data in cases(gold, r"map_paddle_hashnet/top(?P<k>-?\d+)/tie_worst_best"):
        result = evaluate(*data, topk=as_topk(match["k"], len(data[1])))
        found = [result["mAP_irrelevant_first"], result["mAP_relevant_first"]]
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-9, err_msg=match[0])
        assert result["mAP_worst"] <= min(found) + 1e-12 and max(found) <= result["mAP_best"] + 1e-12
    for match, value, data in cases(gold, r"(map_paddle_hashnet|djsrh_top_map)/top(?P<k>-?\d+)/tie_min_mean_max"):
        result = evaluate(*data, topk=as_topk(match["k"], len(data[1])))
        low, mean, high = value
        # random draws: inside the bounds; their mean near the expectation (one draw spreads about (high - low) / 6)
        assert result["mAP_worst"] <= low + 1e-9 and high - 1e-9 <= result["mAP_best"]
        assert abs(result["mAP_expected"] - mean) <= (high - low) / 12 + 1e-9, match[0]


def test_golden_expectation(gold):
    for match, value, data in cases(gold, "tie_aware_expected_map"):
        np.testing.assert_allclose(evaluate(*data)["mAP_expected"], value, rtol=0, atol=1e-9, err_msg=match[0])


def test_golden_precision_and_recall_by_rank(gold):
    ranks = gold["wch_pr/draw_range"]
    for match, value, data in cases(gold, r"wch_pr/(?P<side>[PR])"):
        found = curves(*data, ranks=ranks)["rank"][{"P": "precision", "R": "recall"}[match["side"]]]
        np.testing.assert_allclose(found, value, rtol=0, atol=2 ** -24, err_msg=match[0])  # per query in float32


def test_golden_precision_and_recall_by_radius(gold):
    for match, value, data in cases(gold, r"dhn_pr/(?P<side>[PR])"):
        found = curves(*data)["radius"][{"P": "precision_found", "R": "recall_found"}[match["side"]]]
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-9, err_msg=match[0])


def test_golden_expectation_of_the_enumerated_case(gold):
    query, database = gold["tiny/query_code"], gold["tiny/db_code"]
    query_labels, database_labels = gold["tiny/query_label"], gold["tiny/db_label"]
    bits = query.shape[1]
    relevant = (query_labels.astype(int) @ database_labels.T.astype(int) > 0).sum(1)
    for i, total in enumerate(relevant):
        data = pack(query[i:i + 1]), pack(database), query_labels[i:i + 1], database_labels, bits
        assert abs(evaluate(*data)["mAP_expected"] - gold["tiny/expected_ap"][i]) < 1e-14
        for j, k in enumerate(gold["tiny/topk_list"].tolist()):
            over_hits = evaluate(*data, topk=k)["mAP_expected"]
            over_min = evaluate(*data, topk=k, ap="min")["mAP_expected"]
            assert abs(over_hits - gold["tiny/expected_ap_at_k_over_hits"][i, j]) < 1e-14
            assert abs(over_min - gold["tiny/expected_ap_at_k_over_minRk"][i, j]) < 1e-14
            over_all = over_min * min(k, total) / max(total, 1)
            assert abs(over_all - gold["tiny/expected_ap_at_k_over_R"][i, j]) < 1e-14
    whole = evaluate(pack(query), pack(database), query_labels, database_labels, bits)
    assert abs(whole["mAP_expected"] - gold["tiny/expected_map"]) < 1e-14


# a plain reference --------------------------------------------------------------------------
def plain_ap(ranked, k, ap):
    """AP of a list of 0/1 in ranking order, as a fraction."""
    total = sum(ranked)
    limit = min(k or len(ranked), len(ranked))
    precision = [Fraction(sum(ranked[:t + 1]), t + 1) for t in range(len(ranked)) if ranked[t]]
    if ap == "first_hits":
        precision = precision[:limit]
        return sum(precision) / len(precision) if precision else Fraction(0)
    precision = precision[:sum(ranked[:limit])]
    denominator = len(precision) if ap == "hits" else min(limit, total)
    return sum(precision) / denominator if precision else Fraction(0)


def random_case(seed, queries, items, bits, classes):
    rng = np.random.default_rng(seed)
    return (pack(rng.standard_normal((queries, bits))), pack(rng.standard_normal((items, bits))),
            (rng.random((queries, classes)) < 0.3).astype(np.uint8),
            (rng.random((items, classes)) < 0.3).astype(np.uint8), bits)


def rankings(data):
    """Relevance 0/1 [Q, N] in stable order, and sorted distances."""
    query, database, query_labels, database_labels, bits = data
    distance = (hamming.unpack(query, bits)[:, None] != hamming.unpack(database, bits)[None]).sum(2)
    relevant = (query_labels.astype(int) @ database_labels.T.astype(int)) > 0
    order = np.argsort(distance, axis=1, kind="stable")
    return np.take_along_axis(relevant, order, 1).astype(int), np.take_along_axis(distance, order, 1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), queries=st.integers(1, 6), items=st.integers(1, 40),
       bits=st.sampled_from([1, 3, 8, 64, 70, 200]), classes=st.sampled_from([1, 3, 65, 130]), k=st.integers(0, 50),
       ap=st.sampled_from(AP), no_hit=st.sampled_from(metrics.NO_HIT))
def test_evaluate_equals_the_plain_reference(seed, queries, items, bits, classes, k, ap, no_hit):
    data = random_case(seed, queries, items, bits, classes)
    ranked, distance = rankings(data)
    result = evaluate(*data, topk=k, ap=ap, no_hit=no_hit)
    values = [plain_ap(row.tolist(), k, ap) for row in ranked]
    limit = min(k or items, items)
    hits, relevant = ranked[:, :limit].sum(1), ranked.sum(1)
    has_hit = (relevant if ap == "first_hits" else hits) > 0
    if no_hit == "skip":
        values = [value for value, counted in zip(values, has_hit) if counted]
    assert result["mAP"] == pytest.approx(float(sum(values) / max(len(values), 1)), abs=1e-12)
    assert result["P@K"] == pytest.approx((hits / (k or items)).mean(), abs=1e-12)
    assert result["R@K"] == pytest.approx((hits / np.maximum(relevant, 1)).mean(), abs=1e-12)
    ball = distance <= 2
    assert result["P@H<=2"] == pytest.approx(((ranked * ball).sum(1) / np.maximum(ball.sum(1), 1)).mean(), abs=1e-12)
    assert result["queries_without_relevant"] == (relevant == 0).sum()
    assert result["queries_without_hit"] == (~has_hit).sum()
    assert (result["queries"], result["items"]) == (queries, items)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), queries=st.integers(1, 6), items=st.integers(1, 40), bits=st.sampled_from([1, 3, 70]))
def test_curves_equal_the_plain_reference(seed, queries, items, bits):
    data = random_case(seed, queries, items, bits, 3)
    ranked, distance = rankings(data)
    ranks = [items + 7, 1, 5, 2, 5]  # in any order, repeated, beyond the database
    found = curves(*data, ranks=ranks)
    hits = np.stack([ranked[:, :n].sum(1) for n in ranks], 1)
    relevant = np.maximum(ranked.sum(1), 1)[:, None]
    np.testing.assert_allclose(found["rank"]["precision"], (hits / ranks).mean(0), atol=1e-12)
    np.testing.assert_allclose(found["rank"]["recall"], (hits / relevant).mean(0), atol=1e-12)
    assert found["rank"]["rank"] == ranks and found["radius"]["radius"] == list(range(bits + 1))
    ball = distance[:, None, :] <= np.arange(bits + 1)[None, :, None]
    inside = (ranked[:, None] * ball).sum(2)
    precision, recall = inside / np.maximum(ball.sum(2), 1), inside / relevant
    np.testing.assert_allclose(found["radius"]["precision"], precision.mean(0), atol=1e-12)
    np.testing.assert_allclose(found["radius"]["recall"], recall.mean(0), atol=1e-12)
    fruitful = np.maximum((inside > 0).sum(0), 1)
    np.testing.assert_allclose(found["radius"]["precision_found"], precision.sum(0) / fruitful, atol=1e-12)
    np.testing.assert_allclose(found["radius"]["recall_found"], recall.sum(0) / fruitful, atol=1e-12)


# only the head of a long ranking --------------------------------------------------------------
def plain_map(ranked, k, ap):
    """mAP of rankings [Q, N] with floats: fast enough for long ones."""
    values = []
    for row in ranked:
        precision = np.cumsum(row) / np.arange(1, len(row) + 1)
        places = np.flatnonzero(row)
        places = places[:k] if ap == "first_hits" else places[places < k]
        count = len(places) if ap != "min" else min(k, int(row.sum()))
        values.append(precision[places].sum() / count if len(places) else 0.0)
    return np.mean(values)


def long_case(items, bits=32):
    """Codes that follow the labels a little, as learned ones do."""
    rng = np.random.default_rng(items)
    labels = (rng.random((items + 5, 20)) < 0.1).astype(np.uint8)
    codes = labels @ rng.standard_normal((20, bits)) + rng.standard_normal((items + 5, bits))
    return pack(codes[:5]), pack(codes[5:]), labels[:5], labels[5:], bits


@pytest.mark.parametrize("ap", AP)
@pytest.mark.parametrize("k", [1, 10, 700, 3000])
def test_a_small_k_of_many_items(ap, k):
    data = long_case(30_011)
    ranked, distance = rankings(data)
    result = evaluate(*data, topk=k, ap=ap)
    assert result["mAP"] == pytest.approx(plain_map(ranked, k, ap), abs=1e-12)
    assert result["P@K"] == pytest.approx(ranked[:, :k].mean(), abs=1e-12)
    assert result["R@K"] == pytest.approx((ranked[:, :k].sum(1) / np.maximum(ranked.sum(1), 1)).mean(), abs=1e-12)
    assert result["mAP_worst"] <= result["mAP"] <= result["mAP_best"]
    ball = distance <= 2
    assert result["P@H<=2"] == pytest.approx(((ranked * ball).sum(1) / np.maximum(ball.sum(1), 1)).mean(), abs=1e-12)


@pytest.mark.parametrize("ap", AP)
def test_a_sample_that_misleads(ap):
    """All near and relevant items stand where the sample looks: it promises more of them than there are."""
    items, k = 20_000, 4999
    groups = items // GROUP
    looked_at = (np.arange(_SAMPLE) * groups // _SAMPLE)[:, None] * GROUP + np.arange(GROUP)
    signs = np.full((items, 16), -1)
    signs[looked_at.ravel(), :14] = 1
    labels = np.zeros((items, 1), np.uint8)
    labels[looked_at.ravel()[::2]] = 1
    labels[-1] = 1
    data = pack(np.ones((2, 16))), pack(signs), np.ones((2, 1), np.uint8), labels, 16
    ranked = rankings(data)[0]
    assert evaluate(*data, topk=k, ap=ap)["mAP"] == pytest.approx(plain_map(ranked, k, ap), abs=1e-12)


@pytest.mark.parametrize("ap", AP)
@pytest.mark.parametrize("items", [50, 30_011])
def test_several_k_are_as_each_alone(ap, items):
    data, several = long_case(items), [10, 0, 700, 10, 1]
    relaxed = hamming.unpack(data[0], 32) * np.random.default_rng(0).random((5, 32)).astype(np.float32)
    alone = [evaluate(*data, topk=k, ap=ap, relaxed=relaxed) for k in several]
    assert evaluate(*data, topk=several, ap=ap, relaxed=relaxed) == alone
    assert evaluate(*data, topk=(7,), ap=ap) == [evaluate(*data, topk=7, ap=ap)]


# asymmetric ---------------------------------------------------------------------------------
def asymmetric_ranking(relaxed, data):
    """Relevance 0/1 [Q, N] by descending score, ties by position."""
    query, database, query_labels, database_labels, bits = data
    score = relaxed.astype(np.float64) @ hamming.unpack(database, bits).T.astype(np.float64)
    relevant = (query_labels.astype(int) @ database_labels.T.astype(int)) > 0
    return np.take_along_axis(relevant, np.argsort(-score, axis=1, kind="stable"), 1).astype(int)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), items=st.integers(1, 300), bits=st.sampled_from([1, 3, 8, 64, 70]),
       k=st.integers(0, 320), ap=st.sampled_from(AP), no_hit=st.sampled_from(metrics.NO_HIT),
       scale=st.sampled_from([0, 1, 6]))
def test_asymmetric_equals_the_plain_reference(seed, items, bits, k, ap, no_hit, scale):
    query, database, query_labels, database_labels, bits = random_case(seed, 4, items, bits, 3)
    rng = np.random.default_rng(seed)
    # multiples of 1/8, so that sums are exact in any order and many scores tie; some values outweigh all others
    size = rng.integers(1, 9, (4, bits)) / 8 * 10.0 ** rng.integers(0, scale + 1, bits)
    relaxed = (hamming.unpack(query, bits) * size).astype(np.float32)
    data = query, database, query_labels, database_labels, bits
    ranked = asymmetric_ranking(relaxed, data)
    result = evaluate(*data, topk=k, ap=ap, no_hit=no_hit, relaxed=relaxed)
    values = [plain_ap(row.tolist(), k, ap) for row in ranked]
    if no_hit == "skip":
        values = [value for value in values if value]
    assert result["mAP_asymmetric"] == pytest.approx(float(sum(values) / max(len(values), 1)), abs=1e-12)
    plain = evaluate(*data, topk=k, ap=ap, no_hit=no_hit)
    assert plain == {name: plain["definition"] if name == "definition" else value for name, value in result.items()
                     if name != "mAP_asymmetric"}


def test_asymmetric_ranking_of_many_items():
    data = long_case(30_011)
    rng = np.random.default_rng(0)
    relaxed = (hamming.unpack(data[0], 32) * rng.random((5, 32))).astype(np.float32)
    ranked = asymmetric_ranking(relaxed, data)
    found = evaluate(*data, topk=[0, 10, 2000], relaxed=relaxed)
    for result, k in zip(found, (30_011, 10, 2000)):
        assert result["mAP_asymmetric"] == pytest.approx(plain_map(ranked, k, "hits"), abs=1e-12)
    assert "asymmetric" in found[0]["definition"] and f"asymmetric {found[0]['mAP_asymmetric']:.4f}" in \
        format_line(found[0])
    # the engine's order is the one that is measured
    position = hamming.topk(data[0], data[1], 0)[1]
    order = refine(relaxed, data[1], position)[1]
    relevant = (data[2].astype(int) @ data[3].T.astype(int)) > 0
    np.testing.assert_array_equal(
        np.take_along_axis(relevant, np.take_along_axis(position, order, 1), 1).astype(int), ranked)


# tie orders ---------------------------------------------------------------------------------
def orders_of(groups):
    """All distinct rankings, equally likely, of groups [(items, relevant), ...]."""
    arrangements = []
    for n, r in groups:
        places = [set(c) for c in itertools.combinations(range(n), r)]
        arrangements.append([[int(i in chosen) for i in range(n)] for chosen in places])
    return [list(itertools.chain(*parts)) for parts in itertools.product(*arrangements)]


def codes_of(groups, bits=8):
    """One query, and a database with these groups at distances 0, 1, 2, ...; relevant items in random places."""
    rng = np.random.default_rng(sum(n * 7 + r for n, r in groups))
    signs, labels = [], []
    for d, (n, r) in enumerate(groups):
        signs += [[-1] * d + [1] * (bits - d)] * n
        labels += rng.permutation([1] * r + [0] * (n - r)).tolist()
    order = rng.permutation(len(signs))
    labels = np.array(labels, np.uint8)[order, None]
    return pack(np.ones((1, bits))), pack(np.array(signs)[order]), np.ones((1, 1), np.uint8), labels, bits


group = st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@settings(max_examples=150, deadline=None)
@given(groups=st.lists(group, min_size=1, max_size=3), k=st.integers(0, 12), ap=st.sampled_from(AP))
def test_expectation_and_bounds_over_all_tie_orders(groups, k, ap):
    values = [plain_ap(order, k, ap) for order in orders_of(groups)]
    result = evaluate(*codes_of(groups), topk=k, ap=ap)
    assert abs(result["mAP_expected"] - float(sum(values) / len(values))) < 1e-14
    assert abs(result["mAP_worst"] - float(min(values))) < 1e-14
    assert abs(result["mAP_best"] - float(max(values))) < 1e-14
    first = [[int(i < r) for n, r in groups for i in range(n)], [int(i >= n - r) for n, r in groups for i in range(n)]]
    assert abs(result["mAP_relevant_first"] - float(plain_ap(first[0], k, ap))) < 1e-14
    assert abs(result["mAP_irrelevant_first"] - float(plain_ap(first[1], k, ap))) < 1e-14


def exact_expectation(groups, k, ap):
    """The expectation from the definition, in rational numbers: sums over all counts of hits, no closed form."""
    total, before, hits = Fraction(0), 0, 0
    relevant = sum(r for _, r in groups)
    end = min(k, relevant) if ap == "first_hits" else k
    for n, r in groups:
        used = hits if ap == "first_hits" else before
        if used + (r if ap == "first_hits" else n) <= end:
            for s in range(1, n + 1):  # place s is relevant; x of the s - 1 before it are
                for x in range(max(0, s - 1 - (n - r)), min(s - 1, r - 1) + 1):
                    ways = math.comb(s - 1, x) * math.comb(n - s, r - 1 - x)
                    total += Fraction(ways * (hits + x + 1), math.comb(n, r) * (before + s))
            before, hits = before + n, hits + r
            continue
        m = end - used
        if ap == "first_hits":
            for s in range(1, n + 1):
                for x in range(max(0, s - 1 - (n - r)), min(s - 1, m - 1, r - 1) + 1):
                    ways = math.comb(s - 1, x) * math.comb(n - s, r - 1 - x)
                    total += Fraction(ways * (hits + x + 1), math.comb(n, r) * (before + s))
            return total / end
        value = Fraction(0)
        for h in range(max(0, m - (n - r)), min(m, r) + 1):
            inside = Fraction(0)
            for s in range(1, m + 1):
                for x in range(max(0, s - 1 - (m - h)), min(s - 1, h - 1) + 1):
                    inside += Fraction(math.comb(s - 1, x) * math.comb(m - s, h - 1 - x) * (hits + x + 1),
                                       math.comb(m, h) * (before + s))
            chance = Fraction(math.comb(r, h) * math.comb(n - r, m - h), math.comb(n, m))
            denominator = hits + h if ap == "hits" else min(k, relevant)
            value += chance * (total + inside) / denominator if denominator else 0
        return value
    denominator = hits if ap == "hits" else min(k, relevant)
    return total / denominator if denominator else Fraction(0)


@pytest.mark.parametrize("ap", AP)
@pytest.mark.parametrize("k", [37, 60])
def test_expectation_of_larger_groups(ap, k):
    groups = [(3, 1), (25, 11), (50, 23), (40, 30)]
    expected = float(exact_expectation(groups, k, ap))
    assert abs(evaluate(*codes_of(groups), topk=k, ap=ap)["mAP_expected"] - expected) < 1e-13


def test_expectation_far_down_a_long_ranking():
    """No cancellation: the closed form against a careful sum over all positions."""
    groups = [(60000, 15000), (3, 2), (50000, 40000), (7, 7)]
    total, before, hits = [], 0, 0
    for n, r in groups:
        s = np.arange(n)
        total += (r / n * (hits + 1 + s * (r - 1) / max(n - 1, 1)) / (before + s + 1)).tolist()
        before, hits = before + n, hits + r
    result = evaluate(*codes_of(groups))
    assert abs(result["mAP_expected"] - math.fsum(total) / hits) < 1e-13


@pytest.mark.parametrize("ap", AP)
@pytest.mark.parametrize("k", [20000, 70000, 119999])
def test_a_cut_through_a_huge_group_stays_finite(ap, k):
    """A quarter is relevant at every depth: precision is 1/4, up to the first few positions."""
    result = evaluate(*codes_of([(60000, 15000), (60000, 15000), (60000, 15000)]), topk=k, ap=ap)
    counted = 1 if ap != "min" else k / 4 / min(k, 45000)
    assert result["mAP_expected"] == pytest.approx(counted / 4, abs=1e-3)
    assert result["mAP_worst"] < result["mAP_expected"] < result["mAP_best"]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), k=st.integers(0, 30), ap=st.sampled_from(AP))
def test_tie_figures_do_not_depend_on_database_order(seed, k, ap):
    query, database, query_labels, database_labels, bits = random_case(seed, 5, 30, 4, 3)
    order = np.random.default_rng(seed).permutation(30)
    one = evaluate(query, database, query_labels, database_labels, bits, k, ap)
    other = evaluate(query, database[order], query_labels, database_labels[order], bits, k, ap)
    for name in ("mAP_expected", "mAP_worst", "mAP_best", "mAP_irrelevant_first", "mAP_relevant_first", "P@H<=2"):
        assert one[name] == other[name]
    assert one["mAP_worst"] - 1e-12 <= one["mAP"] <= one["mAP_best"] + 1e-12


def test_relevant_first_is_not_always_best():
    # positions: a hit, five misses, then a group of one hit and one miss cut in half by K = 7
    result = evaluate(*codes_of([(1, 1), (5, 0), (2, 1)]), topk=7)
    assert result["mAP_relevant_first"] == pytest.approx((1 + 2 / 7) / 2)
    assert result["mAP_best"] == pytest.approx(1.0)


# definitions --------------------------------------------------------------------------------
def test_hand_made_ranking():
    # ranking 1 0 1 0 0 1: precision at the hits 1, 2/3, 1/2
    data = codes_of([(1, 1), (1, 0), (1, 1), (1, 0), (1, 0), (1, 1)])
    value = {(ap, k): evaluate(*data, topk=k, ap=ap)["mAP"] for ap in AP for k in (0, 1, 4, 5)}
    assert value["hits", 0] == value["min", 0] == value["first_hits", 0] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert value["hits", 4] == pytest.approx((1 + 2 / 3) / 2)
    assert value["min", 4] == pytest.approx((1 + 2 / 3) / 3)
    assert value["first_hits", 4] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert value["hits", 1] == value["min", 1] == value["first_hits", 1] == 1.0


def test_queries_without_a_hit():
    query = np.array([[1] * 8, [1] * 8])
    database = np.array([[1] * 8, [-1] * 8])
    labels = np.array([[1, 0], [0, 1]], np.uint8)
    data = pack(query), pack(database), labels, labels, 8
    assert evaluate(*data, topk=1)["mAP"] == 0.5
    skipped = evaluate(*data, topk=1, no_hit="skip")
    assert skipped["mAP"] == skipped["mAP_expected"] == 1.0 and skipped["queries_without_hit"] == 1
    nothing = evaluate(data[0], data[1], labels, labels * 0, 8, no_hit="skip")
    assert nothing["mAP"] == 0.0 and nothing["queries_without_relevant"] == 2


def test_skipping_leaves_the_expectation_open_where_ties_decide_who_is_skipped():
    data = codes_of([(2, 1)])
    assert evaluate(*data, topk=1)["mAP_expected"] == 0.5
    result = evaluate(*data, topk=1, no_hit="skip")
    assert result["mAP_expected"] is None and result["mAP_best"] is None
    assert "\n" not in format_line(result)


def test_definition_is_part_of_the_result():
    data = random_case(0, 4, 20, 16, 3)
    result = evaluate(*data, topk=5000, ap="min", no_hit="skip")
    assert result["definition"] == {"name": "mAP@5000", "K": 5000, "denominator": "min",
                                    "ties": "stable (database order)", "no_hit": "skip"}
    assert evaluate(*data)["definition"]["name"] == "mAP@all"
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    line = format_line(result)
    assert "\n" not in line and f"mAP@5000 {result['mAP']:.4f}" in line and "min" in line and "skip" in line


def test_topk_beyond_the_database_is_all_but_for_precision():
    data = random_case(1, 4, 20, 16, 3)
    whole, more = evaluate(*data), evaluate(*data, topk=40)
    assert more["mAP"] == whole["mAP"] and more["R@K"] == whole["R@K"]
    assert more["P@K"] == pytest.approx(whole["P@K"] / 2)


def test_values_do_not_depend_on_threads_or_chunks(monkeypatch):
    data = random_case(2, 150, 700, 12, 4)
    relaxed = hamming.unpack(data[0], 12) * np.random.default_rng(0).random((150, 12))

    def measure():
        return evaluate(*data, topk=[50, 0], relaxed=relaxed), curves(*data)

    one = measure()
    for threads in (2, 5):
        monkeypatch.setattr(compiled, "threads", lambda: threads)
        assert measure() == one
    monkeypatch.setattr(metrics, "_CHUNK", 64)
    assert measure()[0] == one[0]


def test_label_types_are_equivalent():
    query, database, query_labels, database_labels, bits = random_case(3, 5, 30, 16, 3)
    one = evaluate(query, database, query_labels, database_labels, bits)
    for kind in (bool, np.int8, np.int64):
        assert evaluate(query, database, query_labels.astype(kind), database_labels.astype(kind), bits) == one


good = random_case(4, 3, 9, 16, 3)


def with_argument(number, value):
    return [*good[:number], value, *good[number + 1:]]


@pytest.mark.parametrize("arguments, more, words", [
    (with_argument(0, good[0][:, :1]), {}, "query codes have 1 bytes"),
    (with_argument(1, np.pad(good[1], ((0, 0), (0, 1)))), {}, "database codes have 3 bytes"),
    (with_argument(4, 12), {}, "set behind bit 12"),
    (with_argument(4, 0), {}, "code of 0 bits"),
    (with_argument(1, good[1].astype(float)), {}, "database codes must be packed"),
    (with_argument(0, good[0][:0]), {}, "query is empty"),
    (with_argument(1, good[1][:0]), {}, "database is empty"),
    (with_argument(2, None), {}, "query has no labels"),
    (with_argument(3, None), {}, "database has no labels"),
    (with_argument(2, good[2][:, 0]), {}, "query labels must be 0/1"),
    (with_argument(3, good[3].astype(float)), {}, "database labels must be 0/1"),
    (with_argument(3, good[3][:-1]), {}, "9 codes but 8 rows"),
    (with_argument(3, good[3][:, :2]), {}, "3 classes, database labels 2"),
    (with_argument(2, good[2].astype(np.int8) * 2 - 1), {}, "found -1 to 1"),
    (with_argument(3, good[3] * 7), {}, "found 0 to 7"),
    (good, {"topk": -1}, "topk"),
    (good, {"topk": 2.5}, "topk"),
    (good, {"topk": True}, "topk"),
    (good, {"topk": [5, -1]}, "topk"),
    (good, {"topk": []}, "topk"),
    (good, {"relaxed": np.ones((3, 16))}, "signs must be the same"),
    (good, {"relaxed": np.ones((2, 16))}, "2 relaxed codes are not those of the 3"),
    (good, {"relaxed": np.ones((3, 4))}, "not a code of 4 bits"),
    (good, {"relaxed": np.full((3, 16), np.nan)}, "NaN"),
    (good, {"relaxed": good[0]}, "real numbers"),
    (good, {"ap": "mean"}, "'mean'"),
    (good, {"no_hit": "ignore"}, "'ignore'"),
])
def test_bad_input_is_one_clear_line(arguments, more, words):
    with pytest.raises(InputError) as error:
        evaluate(*arguments, **more)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("ranks", [[], [0, 1], [1.5], [[1, 2]], [-3]])
def test_bad_ranks(ranks):
    with pytest.raises(InputError, match="ranks"):
        curves(*good, ranks=ranks)
