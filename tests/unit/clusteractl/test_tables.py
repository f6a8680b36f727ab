"""Tables as text."""

import re

import pytest
from rich.cells import cell_len

from clusteractl.output import Block, paragraph, printable_lines
from clusteractl.tables import Column, Table, render
from clusteractl.views import cluster, keys, lists, models, nodes, placement
from clusterai.v1.model_pb2 import ListCatalogResponse
from support import model_samples, samples

WIDTH = 80
WORST = [samples.tower(), samples.worst_node(), samples.phone(), samples.stranger()]
MODELS = model_samples.worst_models()
PAGES: dict[str, list[Block]] = {
    "node list": nodes.node_list(WORST, samples.NOW, WIDTH),
    "node show": nodes.node_page(samples.worst_node(), samples.NOW, WIDTH),
    "worker list": nodes.worker_list([worker for node in WORST for worker in node.workers], WIDTH),
    "token list": lists.token_list(samples.tokens(), samples.NOW),
    "operator list": lists.operator_list(samples.operators(), samples.NOW),
    "unit list": lists.unit_list(samples.units(), "systemd", samples.NOW),
    "status": cluster.status_page(samples.status(), samples.NOW, WIDTH),
    "model list": models.model_list([*MODELS.models, model_samples.llama()], MODELS.drifts, WIDTH),
    "model show": models.model_page(MODELS.models[0], MODELS.drifts, MODELS.settings, WIDTH),
    "model catalog": placement.catalog_list(model_samples.catalog()),
    "model recommend": placement.recommendation_list(model_samples.worst_recommendations(), WIDTH),
    "model pull": placement.candidate_list("llama3.2:3b", model_samples.worst_candidates(), WIDTH),
    "why": placement.route_page(model_samples.worst_route(), WIDTH),
    "key list": keys.key_list(model_samples.keys(), samples.NOW),
    "nothing yet": [
        *models.model_list([], [], WIDTH), *placement.recommendation_list([], WIDTH), *keys.key_list([], samples.NOW),
        *placement.catalog_list(ListCatalogResponse()),
    ],
    "doctor": cluster.check_report([cluster.Check.of_server(check) for check in samples.checks()], WIDTH),
}


def drawn(blocks: list[Block], *, colour: bool = False) -> list[str]:
    """The lines of the blocks."""
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Table):
            lines += render(block, width=WIDTH, colour=colour).splitlines()
        else:
            lines += printable_lines(block)
    return lines


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_longest_data_fits_80_columns(page: list[Block]) -> None:
    assert [line for line in drawn(page) if cell_len(line) > WIDTH] == []


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_nothing_in_the_data_reaches_the_terminal_as_a_command(page: list[Block]) -> None:
    assert all(line.isprintable() for line in drawn(page))


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_colour_changes_nothing_but_colour(page: list[Block]) -> None:
    coloured = drawn(page, colour=True)
    assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in coloured] == drawn(page)


def test_cut_cells_end_in_an_ellipsis_and_kept_ones_are_never_cut() -> None:
    table = Table((Column("NAME", least=4), Column("STATE", keep=True)), (("n" * 60, "s" * 40),))
    assert render(table, width=50, colour=False).splitlines()[1] == "nnnnnnn…  " + "s" * 40


def test_wide_characters_take_two_columns() -> None:
    table = Table((Column("A", least=4), Column("B", right=True, keep=True)), (("日本語日本語", "1"), ("x", "22")))
    lines = render(table, width=11, colour=False).splitlines()
    assert [cell_len(line) for line in lines] == [11, 11, 11]
    assert lines[1] == "日本語…   1"


def test_wide_characters_take_two_columns_in_paragraphs_too() -> None:
    text = paragraph("日本語 " * 20 + "語" * 100, indent="  ", width=40)
    assert max(cell_len(line) for line in text.splitlines()) in (39, 40)
    assert text.count("語") == 120
    assert set(text) == set("日本語 \n")


def test_states_are_coloured_only_when_asked() -> None:
    table = Table((Column("STATE", stated=True), Column("NAME")), (("offline", "offline"),))
    assert render(table, width=WIDTH, colour=True).splitlines()[1] == "\x1b[31moffline\x1b[0m  offline"
    assert "\x1b" not in render(table, width=WIDTH, colour=False)


def test_a_table_without_rows_is_its_head() -> None:
    assert render(Table((Column("NAME"),), ()), width=WIDTH, colour=False) == "NAME"
