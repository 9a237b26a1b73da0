"""People without administrator's rights: what they may, they do; what they lack is named."""

import base64
import ssl
from pathlib import Path

import pytest
import trustme

from model.errors import AccessDenied, ServiceError
from tasks.promotion import promote
from tasks.registry import aliases, package, register, versions
from tasks.registry.tracking import tracking_client
from tests.tasks.conftest import run_of
from tests.tasks.registry.remote.conftest import Enter
from tests.tasks.registry.remote.server import Server, Way, proxy
from tests.tasks.shop import Shop

pytestmark = pytest.mark.timeout(900)

MOST_REQUESTS = 30


@pytest.fixture
def ada_registered(shop: Shop, enter: Enter, address: str) -> Shop:
    """A shop whose first version an ordinary user registered, who owns the model by that."""
    enter("ada", address)
    assert shop.add(0.3).is_promoted
    return shop


@pytest.mark.faults(kind="P2: MLflow's rights", trials=1)
def test_an_ordinary_user_registers_promotes_and_goes_back(ada_registered: Shop) -> None:
    shop = ada_registered
    assert shop.aliases() == (1, None)
    assert not shop.add(0.2).is_promoted
    assert shop.alias("challenger") == 2
    assert shop.add(0.4).is_promoted
    assert (shop.aliases(), shop.alias("challenger")) == ((3, 1), None)
    assert promote.roll_back(shop.name, "complaints").is_promoted
    assert [change.after for change in aliases.history(shop.name)] == [1, 3, 1]


@pytest.mark.faults(kind="P2: MLflow's rights", trials=1)
def test_a_model_that_nobody_registered_has_no_champion(
    shop: Shop, enter: Enter, address: str
) -> None:
    enter("ada", address)
    client = tracking_client()
    assert versions.read_alias(client, "not-there", "champion") is None
    assert versions.model_tags(client, "not-there") == {}
    assert versions.champion_origin("not-there") is None


@pytest.mark.faults(kind="P2: MLflow's rights", trials=2)
def test_who_may_only_read_is_told_which_permission_is_missing(
    ada_registered: Shop, enter: Enter, server: Server, address: str
) -> None:
    shop, lacks = ada_registered, "could not .*: user 'ro' lacks {} on the {} {}; ask whoever"
    enter("ro", address)
    wanted = lacks.format("EDIT", "experiment", "commerce-clip")
    with pytest.raises(AccessDenied, match=wanted):
        run_of(shop.config, shop.data, shop.folder, "of a reader")
    wanted = lacks.format("MANAGE", "registered model", shop.name)
    with pytest.raises(AccessDenied, match=wanted):
        promote._move(tracking_client(), shop.name, 2, "why not")
    assert shop.alias("champion") == 1

    # With the first of them the run goes on to the second.
    experiment = tracking_client().get_experiment_by_name("commerce-clip")
    server.grant("ro", "EDIT", "experiment", experiment.experiment_id)
    with pytest.raises(AccessDenied, match=lacks.format("EDIT", "registered model", shop.name)):
        shop.register(0.5, "f2")


@pytest.mark.full
@pytest.mark.faults(kind="P2: MLflow's rights", trials=1)
def test_who_may_not_remove_aliases_is_told_so_before_anything_moves(
    ada_registered: Shop, enter: Enter, server: Server, address: str
) -> None:
    shop = ada_registered
    shop.register(0.2, "f2")
    shop.set_alias("challenger", 2)
    enter("ed", address)
    server.grant("ed", "EDIT", "registered_model", shop.name)
    client = tracking_client()
    experiment = client.get_experiment_by_name("commerce-clip").experiment_id
    with pytest.raises(AccessDenied, match="'ed' lacks EDIT on the experiment commerce-clip"):
        promote._move(client, shop.name, 2, "by hand")
    server.grant("ed", "EDIT", "experiment", experiment)
    with pytest.raises(
        AccessDenied, match=f"'ed' lacks MANAGE on the registered model {shop.name}"
    ):
        promote._move(client, shop.name, 2, "by hand")
    assert (shop.aliases(), shop.alias("challenger")) == ((1, None), 2)
    assert aliases.CHANGE_TAG not in versions.model_tags(client, shop.name)
    server.grant("ed", "MANAGE", "registered_model", shop.name)
    assert promote._move(client, shop.name, 2, "by hand").is_promoted


@pytest.mark.faults(kind="P2: MLflow's rights", trials=1)
def test_a_password_that_has_changed_is_one_sentence_without_it(
    enter: Enter, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter("ada", address)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "CANARY-expired")
    wanted = f"MLflow at {address}: .*credentials of user 'ada' .*MLFLOW_TRACKING_PASSWORD"
    with pytest.raises(AccessDenied, match=wanted) as refused:
        tracking_client()
    assert "CANARY" not in str(refused.value)


@pytest.mark.faults(kind="P2: MLflow's rights", trials=1)
def test_a_token_opens_an_authenticating_proxy(
    enter: Enter, address: str, way: Way, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    basic = base64.b64encode(f"ada:{server.add_user('ada')}".encode())
    way.replaces = (b"Bearer CANARY-token", b"Basic " + basic)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "CANARY-token")
    assert versions.read_alias(tracking_client(), "not-there", "champion") is None

    # A proxy turns whom it does not know away, as this server does by its 401.
    way.replaces = (b"Bearer CANARY-token", b"Basic " + base64.b64encode(b"ada:expired"))
    with pytest.raises(AccessDenied, match="credentials of the bearer of the token") as refused:
        tracking_client()
    assert "CANARY" not in str(refused.value)


@pytest.mark.faults(kind="P2: MLflow's rights", trials=1)
def test_a_certificate_of_ones_own_ca_is_accepted_by_its_file(
    enter: Enter, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ca, file = trustme.CA(), tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(tls)
    with proxy(server.address, Way(), tls) as address:
        enter("ada", address)
        with pytest.raises(ServiceError, match=r"unknown CA.*MLFLOW_TRACKING_SERVER_CERT_PATH"):
            tracking_client()
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(file))
        assert versions.read_alias(tracking_client(), "not-there", "champion") is None


def test_a_registration_takes_few_requests_however_many_metrics_its_run_has(
    shop: Shop, enter: Enter, address: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter("ada", address)
    run = run_of(shop.config, shop.data, shop.folder, f"{shop.name}-f1")
    client = tracking_client()
    for number in range(40):
        client.log_metric(run.mlflow_run_id, f"finetune/loss-{number}", 1.0)
    way.requests.clear()
    shop.register(0.3, "f1")
    asked = way.besides_files()
    assert not [path for _, path in asked if "get-history" in path]
    assert len(asked) <= MOST_REQUESTS, asked

    # Others may move aliases while files are on their way.
    def packed(*arguments: object) -> None:
        with register.registry_lock(shop.name, "somebody else"):
            package_files(*arguments)

    package_files = package.write_package
    monkeypatch.setattr(package, "write_package", packed)
    shop.register(0.3, "f2")
