"""Pictures of trees as XML: what is drawn, what is written, and whether it can be read."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from infer.tree_picture import most_used_tree, tree_picture
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_tree
from medusa_jax.tree.rates import independent_rates

SVG = "{http://www.w3.org/2000/svg}"
RATES = independent_rates(np.array([[0.5, 0.25], [0.5, 0.1]]))
SMALL = build_tree([[0], [1], [0, 1]])


def drawn(*args):
    root = ElementTree.fromstring(tree_picture(*args))
    assert root.tag == f"{SVG}svg"
    return root, root.findall(f"{SVG}g[@class='node']"), root.findall(f"{SVG}path[@class='edge']")


def labels(nodes):
    return [node.findtext(f"{SVG}text") for node in nodes]


def thickness(edges):
    return [float(edge.get("stroke-width")) for edge in edges]


@pytest.mark.parametrize("name", ["chain:0", "chain:4", "smollm2_135m_63", "mc_sim_7b_63"])
def test_a_node_for_each_node_and_an_edge_for_each_parent(name):
    tree = load_tree(name)
    _, nodes, edges = drawn(tree)
    assert [node.findtext(f"{SVG}title") for node in nodes] == ["root", *map(str, tree.paths())]
    assert len(edges) == tree.R - 1
    centres = [(n.find(f"{SVG}circle").get("cx"), n.find(f"{SVG}circle").get("cy")) for n in nodes]
    for node, edge in enumerate(edges, 1):
        numbers = re.findall(r"[\d.]+", edge.get("d"))
        assert tuple(numbers[:2]) == centres[tree.parent_R[node]]
        assert (numbers[-1], numbers[-2]) == centres[node]


def test_rates_and_counts_are_written_and_drawn():
    _, nodes, edges = drawn(SMALL, RATES, [40, 30, 5, 10])
    assert labels(nodes) == ["", "0 · 50.0% · 30x", "1 · 25.0% · 5x", "1 · 5.0% · 10x"]
    first, second, third = thickness(edges)  # by the counts
    assert first > third > second


def test_without_counts_the_rates_make_the_thickness():
    root, nodes, edges = drawn(SMALL, RATES)
    assert labels(nodes) == ["", "0 · 50.0%", "1 · 25.0%", "1 · 5.0%"]
    assert thickness(edges) == sorted(thickness(edges), reverse=True)
    assert "1.80 tokens per step" in "".join(root.itertext())


def test_without_either_all_edges_are_alike():
    _, nodes, edges = drawn(SMALL)
    assert labels(nodes) == ["", "0", "1", "1"]
    assert len(set(thickness(edges))) == 1


def test_no_two_nodes_of_a_large_tree_come_close():
    tree = load_tree("smollm2_135m_63")
    root, nodes, _ = drawn(tree, RATES, [10] * 64)
    circles = [node.find(f"{SVG}circle") for node in nodes]
    places = np.array([[float(c.get("cx")), float(c.get("cy"))] for c in circles])
    apart = np.abs(places[:, None] - places[None]) + 1e9 * np.eye(64)[:, :, None]
    assert ((apart[..., 0] >= 100) | (apart[..., 1] >= 16)).all()  # a label's width, its height
    assert (places < [float(root.get("width")), float(root.get("height"))]).all()


def test_the_tree_of_most_steps_is_summed_over_answers():
    rows = [
        {"tree": [[0]], "accepted": [30, 9]},
        {"tree": [[0], [1]], "accepted": [20, 3, 1]},
        {"tree": [], "accepted": [12]},
        {"tree": [[0], [1]], "accepted": [15, 4, 0]},
    ]
    assert most_used_tree(rows) == ([[0], [1]], [35, 7, 1])


def test_answers_without_a_step_spoil_no_picture():
    """Those whose first token completed a stop text: their tree says nothing."""
    none = {"tree": [], "accepted": []}
    plain = {"tree": [], "accepted": [7]}
    assert most_used_tree([plain, none]) == ([], [7])
    assert most_used_tree([none, plain]) == ([], [7])
    paths, accepted = most_used_tree([none])
    assert "of 0<" in tree_picture(build_tree(paths), None, accepted)


def luminance(colour):
    """Of "#rrggbb", as WCAG 2 defines it."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("background", ["#ffffff", "#000000"])
def test_every_colour_can_be_read(background):
    text = tree_picture(SMALL, RATES)
    words = set(re.findall(r'<text[^>]* fill="(#\w+)"', text))
    lines = set(re.findall(r'(?:fill|stroke)="(#\w+)"', text)) - words
    for colours, least in ((words, 4.5), (lines, 3)):  # WCAG 2, level AA
        assert colours
        for colour in colours:
            low, high = sorted([luminance(colour), luminance(background)])
            assert (high + 0.05) / (low + 0.05) >= least, colour
