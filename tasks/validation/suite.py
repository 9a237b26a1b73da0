"""Great Expectations over tables of a data version, and its Data Docs.

Nothing passes because nothing was looked at: an exception inside a metric (a missing column, say),
a column without a single value, and a table without an expectation are failures, and every suite
begins with a row count. GX escapes nothing in its pages, so no text of captions, side tables or
file names may be in the tables unless it is escaped.
"""

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import great_expectations as gx
import pandas as pd
from great_expectations.core import ExpectationValidationResult
from great_expectations.data_context import EphemeralDataContext
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.datasource.fluent import PandasDatasource
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

from model.errors import DataError

SITE = "data_docs"
ORDER = "order"


class CheckedTable(NamedTuple):
    """A table under a name that is safe in a page and a file name, and what it must satisfy."""

    name: str
    frame: pd.DataFrame
    expectations: Sequence[Expectation]


@dataclass(frozen=True)
class Verdict:
    """What the suites found: a sentence a failure and a warning, most telling first."""

    failures: list[str]
    warnings: list[str]
    expectations: int
    docs: Path


def validate_tables(tables: Iterable[CheckedTable], docs: Path) -> Verdict:
    """Run every table's suite, one table in memory at a time, and write Data Docs.

    Raises:
        DataError: there is no table.
    """
    context = _context(docs)
    source = context.data_sources.add_pandas("tables")
    failures, warnings, count = list[str](), list[str](), 0

    for table in tables:
        results = _results(context, source, table)
        count += len(results)
        for result in results:
            if sentence := _failure(table.name, result):
                config = result.expectation_config
                is_warning = config and config.severity == FailureSeverity.WARNING
                (warnings if is_warning else failures).append(sentence)

    if not count:
        raise DataError(
            f"{docs.parent}: there was nothing to validate, so nothing is known; validate again"
        )
    context.build_data_docs(site_names=[SITE])
    return Verdict(failures, warnings, count, docs / "index.html")


def _context(docs: Path) -> EphemeralDataContext:
    """Return a context in memory whose one site is the folder, emptied."""
    # The second logger sets a level of its own.
    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.ERROR)
    shutil.rmtree(docs, ignore_errors=True)

    context = gx.get_context(mode="ephemeral")
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


def _results(
    context: EphemeralDataContext, source: PandasDatasource, table: CheckedTable
) -> list[ExpectationValidationResult]:
    """Return a result for each expectation of a table, in their order; GX sorts them by kind."""
    for number, expectation in enumerate(table.expectations):
        expectation.meta = {**(expectation.meta or {}), ORDER: number}

    suite = context.suites.add(
        gx.ExpectationSuite(table.name, expectations=list(table.expectations))
    )
    batch = source.add_dataframe_asset(table.name).add_batch_definition_whole_dataframe("all lines")
    definition = gx.ValidationDefinition(name=table.name, data=batch, suite=suite)
    run = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": table.frame}
    )

    results = sorted(run.results, key=lambda result: int(_meta(result)[ORDER]))
    assert len(results) == len(table.expectations), "GX evaluated every expectation"
    return results


def _failure(name: str, result: ExpectationValidationResult) -> str:
    """Return the failure in one sentence, empty where there is none."""
    meta, found = _meta(result), result.result
    what, rows = meta["sentence"], meta.get("rows", "lines")

    # GX nests the exceptions of metrics.
    info: Any = result.exception_info or {}
    entries = [info] if "raised_exception" in info else info.values()
    raised = [str(each["exception_message"]) for each in entries if each.get("raised_exception")]
    if raised:
        return (
            f"{name}: could not be checked ({raised[0]}), so perhaps {what}; "
            "the profile is damaged, validate again"
        )
    if "missing_count" in found and found["missing_count"] >= found["element_count"]:
        return f"{name}: could not be checked, because no line has a value, so perhaps {what}"
    if result.success:
        return ""

    if "unexpected_count" in found:
        return f"{name}: {what} ({found['unexpected_count']} of {found['element_count']} {rows})"
    return f"{name}: {what} (found {found.get('observed_value')})"


def _meta(result: ExpectationValidationResult) -> dict[str, Any]:
    assert result.expectation_config is not None
    return dict(result.expectation_config.meta or {})
