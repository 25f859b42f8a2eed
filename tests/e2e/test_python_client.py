"""The `kubernetes` Python client against a real hub over TLS: typed, dynamic, watches, kinds of one's own."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, informer, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError, UnprocessibleEntityError

from cloudlink.hub.manager import Manager
from cloudlink.kube.manifest import load_yaml
from tests.fakes.hub_server import HubServer

CASES = Path(__file__).parents[1] / "cases" / "kube"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture
def api(hub: HubServer) -> Iterator[client.ApiClient]:
    with config.new_client_from_config(str(hub.kubeconfig)) as made:
        yield made


@pytest.fixture
def dynamic(api: client.ApiClient, tmp_path: Path) -> DynamicClient:
    return DynamicClient(api, cache_file=str(tmp_path / "discovery.json"))


def settle(hub: HubServer) -> None:
    hub.do(lambda store: Manager(store).settle())


def greenhouse(name: str, **spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "farm.example.com/v1", "kind": "Greenhouse", "metadata": {"name": name}}
    return head | {"spec": {"crop": "basil", **spec}}


@pytest.fixture
def farm(api: client.ApiClient, hub: HubServer) -> Iterator[None]:
    """The kind Greenhouse, for the time of one test."""
    [definition] = load_yaml((CASES / "accepted_definitions.yaml").read_text(), "definitions")
    extensions = client.ApiextensionsV1Api(api)
    extensions.create_custom_resource_definition(definition)
    yield
    extensions.delete_custom_resource_definition("greenhouses.farm.example.com")
    settle(hub)


def test_typed_objects_are_made_read_patched_listed_and_deleted(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="typed", labels={"t": "1"}), data={"a": "1"})
    made = core.create_namespaced_config_map("default", body)
    assert made.metadata.uid
    patched = core.patch_namespaced_config_map("typed", "default", {"data": {"b": "2"}})
    assert patched.data == {"a": "1", "b": "2"}
    listed = core.list_namespaced_config_map("default", label_selector="t=1", limit=1)
    assert [m.metadata.name for m in listed.items] == ["typed"]
    core.delete_namespaced_config_map("typed", "default")
    with pytest.raises(ApiException) as caught:
        core.read_namespaced_config_map("typed", "default")
    assert caught.value.status == 404


def test_a_deployment_is_scaled_through_its_subresource(api: client.ApiClient) -> None:
    apps = client.AppsV1Api(api)
    labels = {"app": "scaled"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "busybox"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    apps.create_namespaced_deployment("default", {"metadata": {"name": "scaled"}, "spec": spec})
    scale = apps.patch_namespaced_deployment_scale("scaled", "default", {"spec": {"replicas": 3}})
    assert scale.spec.replicas == 3
    assert apps.read_namespaced_deployment("scaled", "default").spec.replicas == 3
    apps.delete_namespaced_deployment("scaled", "default")


def test_a_watch_tells_of_what_is_there_and_of_what_comes(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_config_map("default", {"metadata": {"name": "watched-1", "labels": {"w": "1"}}})
    seen: list[tuple[str, str]] = []
    watching = watch.Watch()
    for event in watching.stream(core.list_namespaced_config_map, "default", label_selector="w=1", timeout_seconds=30):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 1:
            core.create_namespaced_config_map("default", {"metadata": {"name": "watched-2", "labels": {"w": "1"}}})
        elif len(seen) == 2:
            core.delete_namespaced_config_map("watched-1", "default")
        else:
            watching.stop()
    assert seen == [("ADDED", "watched-1"), ("ADDED", "watched-2"), ("DELETED", "watched-1")]


def test_an_informer_keeps_up_with_what_is_there(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_config_map("default", {"metadata": {"name": "known-1", "labels": {"i": "1"}}})
    told: queue.Queue[tuple[str, str]] = queue.Queue()
    keeper = informer.SharedInformer(core.list_namespaced_config_map, namespace="default", label_selector="i=1")
    for kind in ("ADDED", "DELETED"):
        keeper.add_event_handler(kind, lambda obj, kind=kind: told.put((kind, obj.metadata.name)))
    keeper.start()
    try:
        assert told.get(timeout=30) == ("ADDED", "known-1")
        core.create_namespaced_config_map("default", {"metadata": {"name": "known-2", "labels": {"i": "1"}}})
        assert told.get(timeout=30) == ("ADDED", "known-2")
        core.delete_namespaced_config_map("known-1", "default")
        assert told.get(timeout=30) == ("DELETED", "known-1")
        assert keeper.cache.list_keys() == ["default/known-2"]
    finally:
        core.delete_namespaced_config_map("known-2", "default")
        keeper.stop()


def test_the_dynamic_client_finds_kinds_by_discovery_and_keeps_what_it_found(
    api: client.ApiClient, tmp_path: Path
) -> None:
    cache = tmp_path / "discovery.json"
    for _ in range(2):
        dynamic = DynamicClient(api, cache_file=str(cache))
        pods = dynamic.resources.get(api_version="v1", kind="Pod")
        assert (pods.name, pods.namespaced, "po" in pods.short_names) == ("pods", True, True)
        assert cache.exists()


def test_the_dynamic_client_applies_and_is_told_of_conflicts(dynamic: DynamicClient) -> None:
    maps = dynamic.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}}
    maps.server_side_apply(body=body, name="applied", namespace="default", field_manager="one")
    other = body | {"data": {"a": "2"}}
    with pytest.raises(ConflictError):
        maps.server_side_apply(body=other, name="applied", namespace="default", field_manager="two")
    maps.server_side_apply(body=other, name="applied", namespace="default", field_manager="two", force_conflicts=True)
    assert maps.get(name="applied", namespace="default").data.a == "2"


def test_kinds_of_ones_own_are_made_used_and_gone(farm: None, dynamic: DynamicClient, api: client.ApiClient) -> None:
    houses = dynamic.resources.get(api_version="farm.example.com/v1", kind="Greenhouse")
    made = houses.create(body=greenhouse("a"), namespace="default")
    assert (made.spec.site, made.metadata.generation) == ("north", 1)
    with pytest.raises(UnprocessibleEntityError):
        houses.create(body=greenhouse("b", pumps=99), namespace="default")
    custom = client.CustomObjectsApi(api)
    place = ("farm.example.com", "v1", "default", "greenhouses")
    custom.patch_namespaced_custom_object_status(*place, "a", {"status": {"pumps": 1}})
    there = custom.get_namespaced_custom_object(*place, "a")
    assert (there["status"], there["metadata"]["generation"]) == ({"pumps": 1}, 1)
    houses.delete(name="a", namespace="default")
    with pytest.raises(NotFoundError):
        houses.get(name="a", namespace="default")


def test_manifests_of_several_documents_are_made_from_a_file(api: client.ApiClient, tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: file-%d}\n"
    file.write_text("---\n".join(head % i for i in range(2)))
    made = utils.create_from_yaml(api, str(file), namespace="default")
    assert [objects[0].metadata.name for objects in made] == ["file-0", "file-1"]


def test_the_version_and_the_groups_are_told(api: client.ApiClient) -> None:
    assert client.VersionApi(api).get_code().minor == "32"
    assert "apps" in {g.name for g in client.ApisApi(api).get_api_versions().groups}
