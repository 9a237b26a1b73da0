"""The Great Expectations suite over pair profiles, and its Data Docs.

Each expectation is listed with the sentence that a user gets when it fails. GX reports an exception inside a metric (a
missing column, say) as a result rather than a raise, so such a result counts as a failure here; a row count is always
among the expectations, because nearly everything holds on an empty frame.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.core import ExpectationValidationResult
from great_expectations.data_context import FileDataContext
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation

from model.config import DataConfig

SITE = "data_docs"


@dataclass(frozen=True)
class Verdict:
    """What the suite said: an empty list of failures, or one sentence each."""

    failures: list[str]
    expectations: int
    docs: Path


def judge_profiles(frames: Mapping[str, pd.DataFrame], limits: DataConfig, docs: Path) -> Verdict:
    """Run the suite over each split's frame and write Data Docs into the folder ``docs``."""
    context = _context(docs)
    source = context.data_sources.add_or_update_pandas("profiles")
    failures: list[str] = []
    count = 0
    for name, frame in frames.items():
        asset = source.add_dataframe_asset(name)
        batch = asset.add_batch_definition_whole_dataframe("all lines")
        expected = list(_expectations(name, limits))
        suite = gx.ExpectationSuite(name, expectations=expected)
        definition = gx.ValidationDefinition(name=name, data=batch, suite=context.suites.add_or_update(suite))
        result = context.validation_definitions.add_or_update(definition).run(batch_parameters={"dataframe": frame})
        count += len(result.results)
        failures += [_sentence(name, one) for one in _in_order(result.results, expected) if not one.success]
    context.build_data_docs(site_names=[SITE])
    return Verdict(failures, count, docs / "index.html")


def _context(docs: Path) -> FileDataContext:
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="file", project_root_dir=docs.parent / "gx")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    site: Any = {  # GX types a site as one closed TypedDict a backend
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
    }
    for existing in list(context.variables.data_docs_sites or {}):
        context.delete_data_docs_site(existing)
    context.add_data_docs_site(SITE, site)
    return context


def _expectations(name: str, limits: DataConfig) -> Iterator[Expectation]:
    """Yield what a split must satisfy, the most telling first; ``meta.sentence`` is what the user reads."""
    yield gxe.ExpectTableRowCountToBeBetween(
        min_value=limits.min_rows, meta={"sentence": f"fewer than {limits.min_rows} lines"}
    )
    yield gxe.ExpectColumnValuesToBeNull(
        column="fault",
        mostly=1 - limits.max_fault_share,
        meta={"sentence": f"too many faulty lines (data.max_fault_share is {limits.max_fault_share:.2%})"},
    )
    if name != "test" and limits.on_leak == "refuse":
        for what in ("caption", "image"):
            yield gxe.ExpectColumnValuesToBeInSet(
                column=f"{what}_in_test",
                value_set=[False],
                meta={"sentence": f"test leaks: a {what} of test occurs here; take it out or set data.on_leak=drop"},
            )
    yield gxe.ExpectColumnValuesToBeInSet(
        column="is_duplicate",
        value_set=[False],
        mostly=1 - limits.max_duplicate_share,
        meta={"sentence": f"too many repeated pairs (data.max_duplicate_share is {limits.max_duplicate_share:.2%})"},
    )
    yield gxe.ExpectColumnValuesToBeBetween(
        column="caption_chars",
        min_value=1,
        max_value=limits.max_caption_chars,
        mostly=1 - limits.max_fault_share,
        meta={"sentence": f"captions longer than data.max_caption_chars ({limits.max_caption_chars})"},
    )
    for side in ("width", "height"):
        yield gxe.ExpectColumnValuesToBeBetween(
            column=side,
            min_value=limits.min_image_side,
            meta={"sentence": f"an image's {side} is under data.min_image_side ({limits.min_image_side} px)"},
        )


def _in_order(
    results: list[ExpectationValidationResult], expectations: list[Expectation]
) -> list[ExpectationValidationResult]:
    """Return the results in the order of the expectations; GX sorts them by kind."""
    order = [_key(expectation.configuration) for expectation in expectations]
    return sorted(results, key=lambda result: order.index(_key(result.expectation_config)))


def _key(configuration: Any) -> str:
    return f"{configuration.type}:{configuration.kwargs.get('column')}"


def _sentence(name: str, result: ExpectationValidationResult) -> str:
    configuration = result.expectation_config
    assert configuration is not None
    raised = _exception_of(result.exception_info)
    if raised:
        return f"{name}: {_key(configuration)} could not be checked ({raised}); the profile is damaged, validate again"
    found = result.result
    if "unexpected_count" in found:
        detail = f"{found['unexpected_count']} of {found['element_count']} lines"
    else:
        detail = f"found {found.get('observed_value')}"
    return f"{name}: {configuration.meta['sentence'] if configuration.meta else _key(configuration)} ({detail})"


def _exception_of(info: Any) -> str:
    """Return the message of the exception inside a result; GX nests it by metric when a metric failed."""
    if not info:
        return ""
    entries = [info] if "raised_exception" in info else list(info.values())
    return next((str(entry["exception_message"]) for entry in entries if entry.get("raised_exception")), "")
