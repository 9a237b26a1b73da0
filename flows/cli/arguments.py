"""What the command line takes: every command with its options."""

import argparse

STAGES = {
    "retrain": "the main job: validate, pretrain, finetune, evaluate, register, promote, export",
    "validate": "profile and judge a data version; write quarantine and Data Docs",
    "pretrain": "validate, then train the base weights further on the pretraining pairs",
    "finetune": "validate and pretrain, then fine-tune on the train split",
    "evaluate": "judge a registered version on the test split",
    "promote": "make a registered version champion by hand",
    "rollback": "make the previous champion the champion again",
    "drift-check": "compare a data version with the champion's; where it is far off, ask for a retraining",
    "export": "write the embeddings of products by a registered version",
}
SERVICES = {
    "up": "start a Prefect server, a worker and an MLflow server on loopback; create the deployments",
    "down": "stop what `up` started",
    "automate": "create the automations on the Prefect server again, after a notification block was added there",
}
DATA_COMMANDS = {
    "log": "list the data versions: hash, date, name, rows, faults, and who trained on it",
    "status": "tell whether data/ is what data.dvc names, committed, pushed and validated",
    "pull": "bring the version that data.dvc names into data/ and check every file",
    "diff": "tell what changed from one data version to another",
}
MODEL_COMMANDS = {
    "list": "list the models that are known: towers, language, parameters, licence, where their weights come from",
    "show": "tell what is known of one",
    "import": "make base weights of a model as published",
    "convert": "write a registered version, an imported model or a model folder as others publish models",
}

Commands = argparse._SubParsersAction


def parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m flows`."""
    whole = argparse.ArgumentParser(
        prog="python -m flows", description="Retraining of product-search CLIP models."
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="command")
    for name, what in STAGES.items():
        _add_stage(commands.add_parser(name, help=what, description=what), name)
    _add_history(commands)
    _add_ingest(commands)
    _add_data(commands)
    _add_import(commands)
    _add_models(commands)
    _add_predict(commands)
    for name, what in SERVICES.items():
        commands.add_parser(name, help=what, description=what)
    return whole


def _add_stage(command: argparse.ArgumentParser, name: str) -> None:
    if name in ("promote", "rollback"):
        command.add_argument(
            "--reason", default="no reason given", help="why; kept as a tag of the version"
        )
        command.add_argument(
            "--registered-model", default="commerce-clip", help="name in the MLflow registry"
        )
    else:
        _add_config_options(command)
        command.add_argument("--data", help="folder of pairs in place of the config's data.path")
    if name == "promote":
        command.add_argument(
            "--version", type=int, required=True, help="number of the registered version"
        )
    if name == "evaluate":
        command.add_argument(
            "--protocol",
            metavar="full,101",
            help="protocols, comma between them; sets evaluate.protocols",
        )
        command.add_argument(
            "--compare", choices=["published"], help="print published figures beside ours"
        )
    if name in ("evaluate", "export"):
        command.add_argument(
            "--version", default="champion", help="number or alias of the registered version"
        )


def _add_history(commands: "Commands[argparse.ArgumentParser]") -> None:
    what = "list every change of the champion: when, who, from which version to which, why"
    command = commands.add_parser("history", help=what, description=what)
    command.add_argument(
        "--registered-model", default="commerce-clip", help="name in the MLflow registry"
    )


def _add_config_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        default="configs/sample.yaml",
        help="YAML file of the run, or its name in configs/",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a knob; may be repeated",
    )


def _add_ingest(commands: "Commands[argparse.ArgumentParser]") -> None:
    what = "make a new data version of a drop of pairs, or of lines mended by hand"
    command = commands.add_parser("ingest", help=what, description=what)
    command.add_argument("--name", required=True, help="name of the new data version")
    for split in ("train", "valid", "test"):
        command.add_argument(
            f"--{split}", metavar="TSV", help="without it the current version's is taken over"
        )
    command.add_argument(
        "--pretrain", nargs="+", default=[], metavar="TSV", help="in place of the current version's"
    )
    command.add_argument(
        "--mend", metavar="QUARANTINE", help="a <split>.quarantine.tsv with lines mended by hand"
    )
    _add_config_options(command)


def _add_data(commands: "Commands[argparse.ArgumentParser]") -> None:
    what = "look at data versions"
    command = commands.add_parser("data", help=what, description=what)
    actions = command.add_subparsers(dest="action", required=True, metavar="action")
    for name, about in DATA_COMMANDS.items():
        action = actions.add_parser(name, help=about, description=about)
        if name == "diff":
            action.add_argument("reference", help="name, beginning of a hash, or current")
            action.add_argument("current", help="name, beginning of a hash, or current")


def _add_import(commands: "Commands[argparse.ArgumentParser]") -> None:
    what = "make TSVs and side tables of another product data set"
    command = commands.add_parser("import", help=what, description=what)
    command.add_argument("kind", help="fashion-gen, muge, chinese-clip, webdataset, csv or easynlp")
    command.add_argument("sources", nargs="+", metavar="source", help="files or folders")
    command.add_argument("--out", required=True, metavar="FOLDER", help="where the TSVs go")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the kind; may be repeated",
    )


def _add_models(commands: "Commands[argparse.ArgumentParser]") -> None:
    what = "look at models of others, take them in and give them back"
    command = commands.add_parser("models", help=what, description=what)
    actions = command.add_subparsers(dest="action", required=True, metavar="action")
    added = {
        name: actions.add_parser(name, help=about, description=about)
        for name, about in MODEL_COMMANDS.items()
    }
    added["show"].add_argument("name", help="as `models list` has it")
    added["import"].add_argument("path", help="folder or weights file as published")
    added["import"].add_argument(
        "--as", dest="name", required=True, metavar="NAME", help="for model.pretrained"
    )
    added["import"].add_argument(
        "--towers", help="a listed model, an open_clip name or JSON, where no file says it"
    )
    added["import"].add_argument(
        "--activation", choices=("gelu", "quickgelu"), help="where no file says it"
    )
    added["import"].add_argument("--sha256", metavar="HEX", help="what the weights file must have")
    added["import"].add_argument(
        "--licence", help="of the weights, where neither the table nor a model card says it"
    )
    added["convert"].add_argument(
        "source", help="models:/name@alias, models:/name/version, a name or a folder"
    )
    added["convert"].add_argument(
        "--to", required=True, metavar="FORM", help="open_clip, easynlp or huggingface"
    )
    added["convert"].add_argument("--out", required=True, metavar="FOLDER", help="new folder")


def _add_predict(commands: "Commands[argparse.ArgumentParser]") -> None:
    what = "write the embeddings of a TSV of captions, of images or of pairs"
    command = commands.add_parser("predict", help=what, description=what)
    command.add_argument("tsv", help="captions, base64 of images, or both in two columns")
    command.add_argument("--out", required=True, metavar="FILE", help="where the embeddings go")
    command.add_argument(
        "--model",
        default="models:/commerce-clip@champion",
        help="models:/name@alias, models:/name/version, an imported model or a model folder",
    )
    command.add_argument(
        "--format",
        dest="form",
        default="parquet",
        choices=("parquet", "easynlp"),
        help="easynlp: floats between tabs",
    )
    command.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where it runs"
    )
    command.add_argument(
        "--precision", default="fp32", choices=("fp32", "bf16"), help="arithmetic of the towers"
    )
    command.add_argument(
        "--truncate",
        default="open_clip",
        choices=("open_clip", "easynlp"),
        help="how a caption of too many tokens is cut: easynlp leaves out the end of text, as EasyNLP's own code does",
    )
    command.add_argument(
        "--batch-size", type=_positive, default=256, help="lines embedded at a time"
    )
    command.add_argument(
        "--workers", type=_positive, default=1, help="threads that decode images ahead"
    )
    command.add_argument(
        "--context-length", type=_positive, help="tokens of a caption that a Chinese model reads"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
