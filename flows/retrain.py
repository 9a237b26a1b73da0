"""The main job: a data version in, a judged, registered and promoted model version and its embeddings out.

A run with nothing new (same data, code, config and base weights as a registered version) ends in seconds. A run that
was stopped goes on where it stopped: finished stages are picked up, training resumes from its last checkpoint.
"""

from prefect import flow

from flows.approval import approved
from flows.parameters import Config, Data, Device, FinetuneEpochs, Overrides, Precision, read_config, run_name
from flows.report import Report, full_report, nothing_new
from tasks.data import materialise_data
from tasks.evaluation import evaluate
from tasks.export import export
from tasks.promotion import decide, promote
from tasks.registry import find_registered, register
from tasks.run import begin_run, tracked
from tasks.training import finetune, pretrain
from tasks.validation import validate
from tasks.version_report import report_version


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    config: Config = "configs/sample.yaml",
    data: Data = None,
    device: Device = "config",
    precision: Precision = "config",
    finetune_epochs: FinetuneEpochs = None,
    overrides: Overrides = (),
) -> Report:
    """Retrain, judge, register, promote and export, from one data version."""
    settings = read_config(config, overrides, data=data, device=device, precision=precision, epochs=finetune_epochs)
    version = materialise_data(settings)
    if registered := find_registered(settings, version):
        return nothing_new(settings, version, registered)
    run = begin_run(settings, version)
    with tracked(run):
        validation = validate(run)
        pretrained = pretrain(run, validation)
        finetuned = finetune(run, validation, pretrained)
        evaluation = evaluate(run, validation, finetuned)
        registered = register(run, validation, finetuned, evaluation)
        decision = approved(run, decide(run, validation, registered, evaluation))
        decision = promote(run, validation, registered, evaluation, decision)
        report_version(run, validation, evaluation, registered, decision)
        embeddings = export(run, registered)
    return full_report(run, validation, evaluation, registered, decision, embeddings)
