"""The section of a config that says when a challenger becomes champion."""

from typing import Literal

from pydantic import Field

from model.config.base import ColumnName, Section, Share


class GateConfig(Section):
    """What a challenger must reach before it becomes champion."""

    margin: Share = Field(
        0.0,
        description="Mean recall on test by which a challenger must beat the champion: the whole "
        "95 % interval of the difference has to lie above it, 0 to 1.",
    )
    draws: int = Field(
        10_000,
        ge=1000,
        description="Random exchanges of the two models' results behind that interval and every "
        "other measure of chance.",
    )
    yearly_risk: Share = Field(
        0.1,
        description="Chance that within any 365 days a model is promoted that is no better than "
        "the champion, all decisions together, 0 to 1.",
    )
    yearly_decisions: int = Field(
        52,
        ge=1,
        description="Decisions against the champion that a year is expected to have; each may err "
        "with yearly_risk divided by this, and no more than 2.5 %.",
    )
    min_unseen_products: int = Field(
        50,
        ge=1,
        description="Test products that must be left after leaving out the pairs that either model "
        "was trained on; with fewer the two are not compared.",
    )
    max_slice_fall: dict[ColumnName, Share] = Field(
        default_factory=dict,
        description="Columns of test's side table whose values are guarded slices, with the mean "
        "recall that each may lose against the champion (category: 0.05), 0 to 1; a fall counts "
        "only where it is beyond chance, too, all slices together.",
    )
    min_slice_recall: dict[ColumnName, Share] = Field(
        default_factory=dict,
        description="Columns of test's side table with the mean recall that each of their values "
        "must have (category: 0.3), 0 to 1.",
    )
    min_slice_pairs: int = Field(
        30,
        ge=1,
        description="Pairs below which a value of a column is no slice: its recall would be "
        "chance.",
    )
    floors: dict[str, float] = Field(
        default_factory=dict,
        description="Smallest values of test metrics by name, as evaluate reports them "
        "(zero_shot_ensemble_category_macro_accuracy: 0.5); a metric that is missing holds the "
        "challenger back.",
    )
    approval: Literal["auto", "manual"] = Field(
        "auto",
        description="auto promotes what passes; manual pauses the run until a person approves it "
        "in the Prefect UI.",
    )
    approval_timeout_s: int = Field(
        86_400,
        ge=1,
        description="Seconds that a run waits for approval; after that nothing is promoted.",
    )
