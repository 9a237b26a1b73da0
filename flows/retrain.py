"""The main job: from a data version to a registered model version, embeddings and a decision.

A run with nothing new (same data, code, config and base weights as a registered version) ends in
seconds. A run that was stopped goes on where it stopped: finished stages are picked up, training
resumes from its last checkpoint. One run at a time trains a model; another one that comes meanwhile
is skipped, or waits and takes the newest data.
"""

from prefect import State, flow

from flows.approval import approved, require_approver
from flows.heartbeat import require_settings
from flows.names import run_name
from flows.outcome import Report, nothing_new
from flows.parameters import (
    SAMPLE_CONFIG,
    Config,
    Data,
    Device,
    FinetuneEpochs,
    Overrides,
    Precision,
    WhenBusy,
)
from flows.report import full_report, skipped
from flows.settings import read_config
from tasks.data.version import materialise_data
from tasks.embeddings.export import export
from tasks.evaluation.evaluate import evaluate
from tasks.evaluation.report import report_version
from tasks.promotion.promote import decide, promote
from tasks.registry.register import find_registered, register
from tasks.registry.versions import aliases_of
from tasks.run import begin_run, retraining, tracked
from tasks.runtime.lineage import trace_lineage
from tasks.training.train import finetune, pretrain
from tasks.validation.validate import validate


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    config: Config = SAMPLE_CONFIG,
    data: Data = None,
    device: Device = "config",
    precision: Precision = "config",
    finetune_epochs: FinetuneEpochs = None,
    overrides: Overrides = (),
    when_busy: WhenBusy = "skip",
) -> Report | State[Report]:
    """Validate, pretrain, finetune, evaluate, register, export and promote: the main job."""
    require_settings()
    settings = read_config(
        config, overrides, data=data, device=device, precision=precision, epochs=finetune_epochs
    )
    require_approver(settings)

    with retraining(settings, when_busy == "wait") as holder:
        if holder is not None:
            return skipped(settings, holder)

        # What the run is made of is hashed once, and says whether there is anything to do.
        version = materialise_data(settings)
        lineage = trace_lineage(settings, version)
        if registered := find_registered(settings, lineage.fingerprint):
            return nothing_new(
                settings.name,
                version.version,
                registered.name,
                registered.number,
                aliases_of(registered),
            )

        run = begin_run(settings, version, lineage)
        with tracked(run):
            validation = validate(run)
            pretrained = pretrain(run, validation)
            finetuned = finetune(run, validation, pretrained)
            evaluation = evaluate(run, validation, finetuned)
            registered = register(run, validation, finetuned, evaluation)
            embeddings = export(run, registered)
            decision = decide(run, validation, registered, evaluation)

    # A person may take a day to approve; that holds neither data nor lock (DECISIONS 26).
    decision = promote(run, registered, approved(run, decision))
    report_version(run, validation, evaluation, registered, decision)
    return full_report(run, validation, evaluation, registered, decision, embeddings)
