"""What the commands for models and keys print, letter by letter."""

from textwrap import dedent
from typing import Any

import pytest

from clusteractl.output import Block, printable_lines
from clusteractl.tables import Table, render
from clusteractl.views import keys, models, placement
from clusterai.v1.key_pb2 import CreateKeyResponse, Key
from clusterai.v1.model_pb2 import (
    DRIFT_KIND_DIGEST,
    DRIFT_KIND_MISSING,
    FIT_TIGHT,
    CatalogEntry,
    Drift,
    ExplainRouteResponse,
    ListCatalogResponse,
    Model,
    ModelCopy,
)
from clusterai.v1.types_pb2 import (
    PULL_STATE_FAILED,
    PULL_STATE_PULLING,
    PULL_STATE_VERIFYING,
    PULL_STATE_WAITING,
    OllamaSettings,
    PullStatus,
)
from support import model_samples, samples

WIDTH = 80
READY: Any = {"present": True, "usable": True}


def text(blocks: list[Block] | list[str]) -> str:
    """The blocks as they are printed, on a terminal of 80 columns without colour."""
    return "\n".join(
        render(block, width=WIDTH, colour=False) if isinstance(block, Table) else "\n".join(printable_lines(block))
        for block in blocks
    )


def golden(written: str) -> str:
    """A text as it stands in a test."""
    return dedent(written).strip("\n")


def test_the_list_of_models_says_where_each_is_and_what_is_to_be_done() -> None:
    known = model_samples.models()
    assert text(models.model_list(known.models, known.drifts, WIDTH)) == golden(
        """
        MODEL           SIZE  QUANT   WHERE
        llama3.2:3b   2.0 GB  Q4_K_M  tower loaded, nas pulling 43 %, pi4 missing
        qwen3:32b    19.0 GB  Q4_K_M  desk unusable

        llama3.2:3b on pi4 is missing: its disk is full: 1.1 GB free, 2 GB needed
        qwen3:32b on desk is unusable: desk is offline for 5 min

        phone has llama3.2:3b as 4c27e0f5b5ad, the cluster's is 000102030405
          fix: `clusteractl model sync llama3.2:3b`
        nas runs Ollama 0.30.0, the newest in the cluster is 0.31.1
          fix: `sudo clusterai-agent setup ollama` on nas
        """
    )


def test_a_model_is_shown_with_its_copies() -> None:
    settings = OllamaSettings(context_length=8192)
    assert text(models.model_page(model_samples.llama(), [], settings, WIDTH)) == golden(
        """
        llama3.2:3b
          size     2.0 GB
          kind     llama 3.2B Q4_K_M
          can      completion, tools
          context  8192 tokens, trained for 131072
          digest   000102030405
          wanted   by `clusteractl model`

        NODE   STATE         IN VRAM  WANTED  FROM
        nas    pulling 43 %        -  yes     server
        pi4    missing             -  yes     -
        tower  loaded         3.0 GB  yes     -

        pi4 is missing: its disk is full: 1.1 GB free, 2 GB needed
        """
    )
    assert "no: somebody pulled it by hand" in text(models.model_page(model_samples.qwen(), [], settings, WIDTH))


@pytest.mark.parametrize(
    ("copy", "state"),
    [
        (ModelCopy(loaded=True, **READY), "loaded"),
        (ModelCopy(**READY), "ready"),
        (ModelCopy(present=True, loaded=True), "unusable"),
        (ModelCopy(pull=PullStatus(state=PULL_STATE_PULLING, completed_bytes=43, total_bytes=100)), "pulling 43 %"),
        (ModelCopy(pull=PullStatus(state=PULL_STATE_PULLING)), "pulling"),
        (ModelCopy(pull=PullStatus(state=PULL_STATE_PULLING, completed_bytes=9, total_bytes=8)), "pulling 100 %"),
        (ModelCopy(pull=PullStatus(state=PULL_STATE_VERIFYING), wanted=True), "verifying"),
        (ModelCopy(pull=PullStatus(state=PULL_STATE_WAITING), wanted=True), "waiting"),
        (ModelCopy(pull=PullStatus(state=PULL_STATE_FAILED), wanted=True), "failed"),
        (ModelCopy(present=True, usable=True, pull=PullStatus(state=PULL_STATE_FAILED)), "ready"),
        (ModelCopy(wanted=True), "missing"),
        (ModelCopy(), "differs"),
        (ModelCopy(pull=PullStatus(state=99), wanted=True), "missing"),  # type: ignore[arg-type]
    ],
)
def test_a_copy_has_one_state(copy: ModelCopy, state: str) -> None:
    assert models.copy_state(copy) == state


def test_a_copy_with_other_content_differs_even_where_the_model_is_wanted() -> None:
    drift = Drift(kind=DRIFT_KIND_DIGEST, model="a:latest", node_id="nas", message="other content", fix="sync")
    known = Model(model="a:latest", copies=[ModelCopy(node_id="nas", wanted=True, reason="another digest")])
    lines = text(models.model_list([known], [drift], WIDTH)).splitlines()
    assert lines[1].endswith("nas differs")
    assert lines[3:] == ["nas, a:latest: other content", "  fix: sync"], "what the drift says is not said twice"
    assert "differs" in text(models.model_page(known, [drift], OllamaSettings(), WIDTH))


def test_what_is_on_its_way_is_no_drift() -> None:
    copies = [
        ModelCopy(node_id="nas", wanted=True, reason="it is being fetched", pull=PullStatus(state=PULL_STATE_PULLING)),
        ModelCopy(node_id="pi4", wanted=True, reason="pi4 is offline"),
    ]
    drifts = [Drift(kind=DRIFT_KIND_MISSING, model="a:latest", node_id=node, message=f"{node} lacks a:latest")
              for node in ("nas", "pi4")]  # fmt: skip
    lines = text(models.model_list([Model(model="a:latest", copies=copies)], drifts, WIDTH)).splitlines()
    assert lines[1].endswith("nas pulling, pi4 missing")
    assert lines[2:] == ["", "pi4 lacks a:latest"]


def test_a_long_fix_is_wrapped() -> None:
    drift = Drift(message="nas differs", fix="its agent restarts Ollama when it is idle; at once: " + "x" * 30 + " now")
    assert all(len(line) <= WIDTH for line in models.drift_lines([drift], WIDTH)[1].splitlines())


def test_many_copies_are_counted_those_that_answer_first() -> None:
    copies = [ModelCopy(node_id=f"n{number}", loaded=number < 2, **READY) for number in range(95)]
    copies += [ModelCopy(node_id=f"m{number}", wanted=True) for number in range(5)]
    assert models.where(copies[::-1]) == "2 loaded, 93 ready, 5 missing"
    assert models.where([]) == "nowhere"


def test_a_hundred_nodes_with_one_trouble_are_one_remark() -> None:
    copies = [ModelCopy(node_id=f"n{number:02}", present=True, reason="it is draining") for number in range(100)]
    seen = text(models.model_list([Model(model="a:latest", copies=copies)], [], WIDTH))
    assert seen.splitlines()[-1] == "a:latest on n00, n01, n02 and 97 more is unusable: it is draining"


def test_many_differences_with_one_fix_are_not_a_wall_of_text() -> None:
    lines = models.drift_lines(model_samples.worst_models().drifts, WIDTH)
    assert lines[-3:] == ["and 95 more like these: clusteractl model list --json", "  fix: x", "  fix: y"]


def test_without_models_the_list_says_how_to_begin() -> None:
    assert "clusteractl model recommend" in text(models.model_list([], [], WIDTH))


def test_a_pull_begins_with_where_it_goes_and_why() -> None:
    assert text(placement.candidate_list("llama3.2:3b", model_samples.candidates(), WIDTH)) == golden(
        """
        llama3.2:3b goes to
          tower  fits in the 24 GB of its GPU, needs 3.0 GB, 22.0 GB free
        and not to
          nas    fits in main memory (10 GB free), needs 3.0 GB
          pi4    needs 3 GB, has 1.1 GB free
          phone  it has no Ollama: sudo clusterai-agent setup ollama
        """
    )
    nobody = placement.candidate_list("llama3.2:3b", model_samples.candidates()[2:], WIDTH)
    assert nobody[0] == "llama3.2:3b goes nowhere:"


def test_of_many_nodes_that_do_not_get_it_some_are_named() -> None:
    shown = placement.candidate_list("a:latest", model_samples.worst_candidates(), WIDTH)
    assert shown[-1] == "  and 14 more (--json shows all)"


def test_the_catalogue_says_what_fits_where() -> None:
    entries = [model_samples.catalog().entries[0], model_samples.catalog().entries[2]]
    assert text(placement.catalog_list(ListCatalogResponse(entries=entries, catalog_version="2026-11-20"))) == golden(
        """
        MODEL          SIZE  TYPE  CONTEXT  FITS          LICENCE
        llama3.2:3b  2.0 GB  text     128k  tower gpu +1  Llama 3.2 Community
        huge:400b    240 GB  text        -  nowhere       -

        Catalogue 2026-11-20: 2 models.
        Fetch one with: clusteractl model pull MODEL
        """
    )
    own = text(placement.catalog_list(model_samples.catalog()))
    assert "3 models, 1 of them your own" in own
    assert "clusteractl model catalog" in text(placement.catalog_list(ListCatalogResponse()))


def test_a_small_context_is_not_rounded_away() -> None:
    entry = CatalogEntry(model="a:latest", context_length=512, candidates=model_samples.candidates()[:1])
    entry.candidates[0].fit = FIT_TIGHT
    row = text(placement.catalog_list(ListCatalogResponse(entries=[entry]))).splitlines()[1]
    assert row.split() == ["a:latest", "-", "-", "512", "tower", "tight", "-"]


def test_a_recommendation_has_its_reason_and_its_command() -> None:
    assert text(placement.recommendation_list(model_samples.recommendations(), WIDTH)) == golden(
        """
        llama3.2:3b (2.0 GB, text, Llama 3.2 Community)
          the largest general one that fits in the GPU of tower beside what is loaded
          there
          clusteractl model pull llama3.2:3b
        """
    )
    assert "clusteractl model catalog" in text(placement.recommendation_list([], WIDTH))


def test_why_shows_the_nodes_in_the_order_in_which_they_are_tried_and_each_reason_in_full() -> None:
    assert text(placement.route_page(model_samples.route(), WIDTH)) == golden(
        """
        A request for llama3.2:3b goes to tower now.

        TRY  NODE   LOADED  BUSY  FIT
          1  tower  yes      1/2  gpu
          2  nas    no       0/2  memory
          -  pi4    no       0/2  no

          tower  would get the request: has it loaded, 1 of 2 slots in use, fits on its
                 GPU
          nas    would have to load it first, 0 of 2 slots in use, runs in main memory
          pi4    it is draining since 2 min, on ann's request
        """
    )


def test_why_says_what_a_client_is_told_when_nobody_can_answer() -> None:
    assert text(placement.route_page(model_samples.no_route(), WIDTH)) == golden(
        """
        A request for qwen3:32b gets no answer now: desk, which has it, is offline; try
          again in 60 s

        TRY  NODE  LOADED  BUSY  FIT
          -  desk  no         0  gpu

          desk  desk is offline for 5 min
        """
    )


def test_why_with_a_hundred_nodes_shows_all_of_them_and_some_reasons() -> None:
    lines = text(placement.route_page(model_samples.worst_route(), WIDTH)).splitlines()
    assert sum("4294967295/64  memory" in line for line in lines) == 100
    assert "  and 80 more (--json shows all)" in lines


def test_a_difference_names_node_and_model_where_its_sentence_does_not() -> None:
    drift = Drift(node_id="nas", model="a:latest", message="its content differs")
    assert models.drift_line(drift, WIDTH) == "nas, a:latest: its content differs"
    drift.message = "nas has a:latest as 4c27e0f5b5ad"
    assert models.drift_line(drift, WIDTH) == "nas has a:latest as 4c27e0f5b5ad"


def test_why_names_what_is_close_to_an_unknown_model_or_how_to_fetch_it() -> None:
    unknown = ExplainRouteResponse(model="lama:latest", closest=["llama3.2:3b", "llava:7b"])
    assert text(placement.route_page(unknown, WIDTH)).splitlines() == [
        "A request for lama:latest gets no answer now: there is no such model",
        "Close to it: llama3.2:3b, llava:7b",
    ]
    del unknown.closest[:]
    assert text(placement.route_page(unknown, WIDTH)).endswith("clusteractl model pull lama:latest")


def test_keys_say_what_they_open_and_whether_they_can_be_used() -> None:
    rows = [model_samples.keys()[index] for index in (0, 2, 3, 4)]
    assert text(keys.key_list(rows, samples.NOW)) == golden(
        """
        KEY       NAME     FOR         STATE    RATE  EXPIRES    CREATED
        k3v7q2xa  ann      all models  usable      -  never      1 h ago
        bbbbbbbb  old      all models  expired     -  1 min ago  104 d ago
        cccccccc  gone     all models  revoked     -  never      104 d ago
        dddddddd  browser  dashboard   usable      -  never      1 min ago
        """
    )
    assert "clusteractl key create" in text(keys.key_list([], samples.NOW))


def test_a_new_key_comes_with_the_lines_for_its_clients_and_without_itself() -> None:
    key = Key(key_id="k3v7q2xa", name="ann", models=["llama3.2:3b"], expires_unix_seconds=samples.NOW + 30 * 86400)
    key.requests_per_minute = 60
    reply = CreateKeyResponse(secret="cak1.secret", key=key, gateway_urls=[model_samples.GATEWAY_URL])
    seen = text(keys.key_guide(reply, samples.NOW, WIDTH))
    assert "cak1" not in seen
    assert seen.splitlines()[:4] == [
        "This key k3v7q2xa of ann opens llama3.2:3b, 60 requests a minute, for 30 d. It",
        "is shown only now.",
        "Put it into a file named key, and the cluster's authority beside it:",
        "  clusteractl ca > cluster-ca.pem",
    ]
    assert """https://tower.local:11434/api/chat -d '{"model": "llama3.2:3b", "messages":""" in seen
    assert 'export OPENAI_BASE_URL=https://tower.local:11434/v1 OPENAI_API_KEY="$(cat key)"' in seen
    assert 'export OLLAMA_HOST=https://tower.local:11434 OLLAMA_API_KEY="$(cat key)"' in seen


def test_a_key_of_the_dashboard_is_for_a_browser() -> None:
    reply = CreateKeyResponse(key=Key(key_id="a", dashboard=True), gateway_urls=["https://[2001:db8::1]:11434"])
    seen = text(keys.key_guide(reply, samples.NOW, WIDTH))
    assert "until it is revoked" in seen
    assert "https://[2001:db8::1]/dask/status in a browser" in seen
    assert "OPENAI" not in seen


def test_the_first_request_suits_the_model() -> None:
    assert keys.curl_line("https://a", "nomic-embed-text:latest").partition("https://a")[2] == (
        """/api/embed -d '{"model": "nomic-embed-text:latest", "input": "Hello"}'"""
    )
    assert keys.curl_line("https://a").endswith("https://a/api/tags")
