"""Train the stages of a run: pretrain from the base weights, finetune from pretrain's best.

What trains imports torch, which a run with nothing new to do never loads (DECISIONS 8).
"""

from model.errors import DataError
from model.pairs.splits import find_split_files
from tasks.runtime.records import Run, TrainedModel, Validation
from tasks.runtime.stage import stage


@stage("pretrain", TrainedModel, reads=("model", "pretrain"))
def pretrain(run: Run, validation: Validation) -> TrainedModel:
    """Train the base weights further on the pretraining pairs.

    Without pairs or epochs they pass through.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        OutOfMemory: a step needs more memory than there is.
        CheckpointError: base weights cannot be read, or a checkpoint cannot be written.
    """
    from tasks.training.fitting import fit_towers

    epochs = run.config.pretrain.epochs
    if epochs and not find_split_files(run.data.folder).pretrain:
        raise DataError(
            f"{run.data.folder}: pretrain.epochs is {epochs}, but there is no pretrain/*.tsv; "
            "add pairs or set pretrain.epochs to 0"
        )
    return fit_towers(run, validation, "pretrain", None)


@stage("finetune", TrainedModel, reads=("model", "finetune"))
def finetune(run: Run, validation: Validation, start: TrainedModel) -> TrainedModel:
    """Train the pretrained weights on the train split; without epochs they pass through.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        OutOfMemory: a step needs more memory than there is.
        CheckpointError: the start weights are damaged, or a checkpoint cannot be written.
    """
    from tasks.training.fitting import fit_towers, measure_retention

    tuned = fit_towers(run, validation, "finetune", start.folder)
    return tuned.model_copy(
        update={"retention": measure_retention(run, validation, start.folder, tuned.folder)}
    )
