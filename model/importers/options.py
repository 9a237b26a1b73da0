"""What the options of all formats share."""

from pydantic import Field

from model.config.sections import Name, Section


class ImportOptions(Section):
    """Options that every kind understands."""

    split: Name | None = Field(
        None,
        description="Name of the one split that all sources become; "
        "by default it comes from their file names.",
    )
