"""Each stage as a flow of its own; it runs what it needs first and picks up what is finished."""

from prefect import flow

from flows.heartbeat import require_settings
from flows.names import run_name
from flows.parameters import SAMPLE_CONFIG, Config, Data, Overrides, Protocols, WhichVersion
from flows.settings import protocol_overrides, read_config
from tasks.data.version import materialise_data
from tasks.embeddings.export import export as export_embeddings
from tasks.evaluation.evaluate import evaluate as evaluate_model
from tasks.evaluation.report import report_version
from tasks.registry.files import registered_model
from tasks.registry.versions import find_version
from tasks.run import begin_evaluation, begin_run, tracked
from tasks.runtime.lineage import trace_lineage
from tasks.runtime.log import run_logger
from tasks.runtime.records import Evaluation, Export, Run, TrainedModel, Validation, Version
from tasks.training.train import finetune as finetune_model
from tasks.training.train import pretrain as pretrain_model
from tasks.validation.drift import (
    Drift,
    announce_drift,
    champion_reference,
    measure_drift,
    publish_drift,
)
from tasks.validation.validate import validate as validate_data


@flow(name="validate", flow_run_name=run_name)
def validate(
    config: Config = SAMPLE_CONFIG, data: Data = None, overrides: Overrides = ()
) -> Validation:
    """Profile and validate a data version; write quarantine and Data Docs."""
    run = _begin(config, data, overrides)
    with tracked(run):
        return validate_data(run)


@flow(name="pretrain", flow_run_name=run_name)
def pretrain(
    config: Config = SAMPLE_CONFIG, data: Data = None, overrides: Overrides = ()
) -> TrainedModel:
    """Validate, then train the base weights further on the pretraining pairs."""
    run = _begin(config, data, overrides)
    with tracked(run):
        return pretrain_model(run, validate_data(run))


@flow(name="finetune", flow_run_name=run_name)
def finetune(
    config: Config = SAMPLE_CONFIG, data: Data = None, overrides: Overrides = ()
) -> TrainedModel:
    """Validate and pretrain, then fine-tune on the train split."""
    run = _begin(config, data, overrides)
    with tracked(run):
        validation = validate_data(run)
        return finetune_model(run, validation, pretrain_model(run, validation))


@flow(name="evaluate", flow_run_name=run_name)
def evaluate(
    version: WhichVersion = "champion",
    config: Config = SAMPLE_CONFIG,
    data: Data = None,
    protocols: Protocols = None,
    overrides: Overrides = (),
) -> Evaluation:
    """Evaluate a registered version on the test split of a data version."""
    run, chosen = _begin_with(version, config, data, [*overrides, *protocol_overrides(protocols)])
    with tracked(run):
        validation = validate_data(run)
        evaluation = evaluate_model(run, validation, registered_model(chosen))
        report_version(run, validation, evaluation, chosen)
    return evaluation


@flow(name="drift-check", flow_run_name=run_name)
def drift_check(
    config: Config = SAMPLE_CONFIG, data: Data = None, overrides: Overrides = ()
) -> Drift | None:
    """Compare a data version with the champion's; where it is far off, ask for a retraining."""
    run = _begin(config, data, overrides)
    with tracked(run):
        reference = champion_reference(run.config.registered_model)
        validate_data(run)

        drift = None if reference is None else measure_drift(run.data.version, reference)
        if drift is None:
            run_logger().warning("there is no champion with known data to compare with")
            return None
        publish_drift(drift, run.config.data)
        announce_drift(drift, run.config.data)
    return drift


@flow(name="export", flow_run_name=run_name)
def export(
    version: WhichVersion = "champion",
    config: Config = SAMPLE_CONFIG,
    data: Data = None,
    overrides: Overrides = (),
) -> Export:
    """Write the embeddings of the config's export files by a registered version."""
    run, chosen = _begin_with(version, config, data, overrides)
    with tracked(run):
        return export_embeddings(run, chosen)


def _begin(config: str, data: str | None, overrides: Overrides) -> Run:
    require_settings()
    settings = read_config(config, overrides, data=data)
    version = materialise_data(settings)
    return begin_run(settings, version, trace_lineage(settings, version))


def _begin_with(
    version: str, config: str, data: str | None, overrides: Overrides
) -> tuple[Run, Version]:
    require_settings()
    settings = read_config(config, overrides, data=data)
    chosen = find_version(settings.registered_model, version)
    return begin_evaluation(settings, materialise_data(settings), chosen), chosen
