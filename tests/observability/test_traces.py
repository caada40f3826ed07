"""A creation is one trace. Later work for the call is linked to it, and no span holds personal data."""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response
from twilio.request_validator import RequestValidator

from app.calls.callback_urls import CALLBACK_PATH
from app.jobs.worker import run_worker
from app.observability import Metrics
from app.observability.tracing import has_recording_span, trace_background_work, tracing_from_environment
from tests.cli.running import environment, eventually, free_port, running
from tests.support.clients import http_client
from tests.support.gateway import BASIC_CALL, SECRET_KEY, Gateway, Tenant, running_app, running_gateway, settings_for
from tests.support.tracing import in_memory_tracing
from tests.support.upstream import Upstream, answer, created, error, reset, running_upstream

PUBLIC_URL = "https://calls.example.com"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLERS_SPAN = "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLERS_SPAN}-01"}


@dataclass
class Traced:
    gateway: Gateway
    exporter: InMemorySpanExporter

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if name in (None, span.name)]

    def only(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span


@pytest.fixture
async def traced(database_url: str) -> AsyncIterator[Traced]:
    tracing, exporter = in_memory_tracing()
    settings = settings_for(database_url, public_url=PUBLIC_URL, delivery_allow="127.0.0.0/8")
    async with running_gateway(settings, tracing=tracing) as gateway:
        yield Traced(gateway, exporter)


def trace_of(span: ReadableSpan) -> str:
    assert span.context
    return f"{span.context.trace_id:032x}"


def parent_of(span: ReadableSpan) -> str | None:
    return f"{span.parent.span_id:016x}" if span.parent else None


def links_of(span: ReadableSpan) -> list[str]:
    return [f"{link.context.trace_id:032x}" for link in span.links]


async def create(tenant: Tenant, *, from_: str = "Jack", **members: Any) -> httpx.Response:
    return await tenant.http.post("/v1/calls", json=BASIC_CALL | {"from": from_} | members, headers=TRACEPARENT)


async def called_back(gateway: Gateway, tenant: Tenant, upstream: Upstream, sid: str) -> None:
    """Sends Twilio's callback for the last creation, with a `traceparent` that must be ignored."""
    url = dict(upstream.posts[-1].form)["StatusCallback"].partition("#")[0]
    form = {"CallSid": sid, "AccountSid": tenant.account_sid, "CallStatus": "ringing", "To": "+14155550123"}
    signed = {"X-Twilio-Signature": RequestValidator(tenant.auth_token).compute_signature(url, form)}
    async with http_client(base_url=gateway.url) as twilio:
        answer = await twilio.post(url.removeprefix(PUBLIC_URL), data=form, headers=signed | TRACEPARENT)
    assert answer.status_code == 204


async def test_a_creation_is_one_trace_from_the_client_to_the_database_and_twilio(traced: Traced) -> None:
    async with running_upstream(error(429, 20429), created()) as upstream:
        tenant = await traced.gateway.add_tenant(upstream.url)
        answer = await create(tenant)
        assert answer.status_code == 201
        assert not [name for post in upstream.posts for name in post.headers if name.startswith("trace")]
    server = traced.only("POST /v1/calls")
    assert server.context
    assert (server.kind, trace_of(server), parent_of(server)) == (SpanKind.SERVER, TRACE, CALLERS_SPAN)
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/calls",
        "http.response.status_code": 201,
        "callgate.request_id": answer.headers["X-Request-Id"],
        "callgate.tenant_id": tenant.id,
        "callgate.call_id": answer.json()["id"],
        "callgate.call_sid": answer.json()["sid"],
        "callgate.execution": "started",
    }
    parts = [span for span in traced.spans() if span is not server]
    assert {span.name for span in parts} == {"database", "Twilio POST Calls"}
    assert {(span.kind, trace_of(span), parent_of(span)) for span in parts} == {
        (SpanKind.CLIENT, TRACE, f"{server.context.span_id:016x}")
    }
    refused, started = traced.spans("Twilio POST Calls")
    assert refused.attributes
    assert started.attributes
    assert (refused.attributes["callgate.answer"], refused.attributes["error.type"]) == ("429", "throttled")
    assert started.attributes["callgate.answer"] == "2xx"
    database = traced.spans("database")
    assert len(database) >= 2
    assert any(span.start_time < refused.start_time for span in database if span.start_time and refused.start_time)
    assert any(span.start_time > started.start_time for span in database if span.start_time and started.start_time)


async def test_a_callback_has_its_own_trace_that_is_linked_to_the_creation(traced: Traced) -> None:
    async with running_upstream(reset) as upstream:
        tenant = await traced.gateway.add_tenant(upstream.url)
        assert (await create(tenant)).status_code == 202
        await called_back(traced.gateway, tenant, upstream, "CA" + "1" * 32)
    callback = traced.only("POST /callbacks/twilio/{call_id}")
    assert trace_of(callback) != TRACE
    assert (callback.parent, links_of(callback)) == (None, [TRACE])


async def test_the_workers_traces_of_a_call_are_linked_to_the_creation(traced: Traced, database_url: str) -> None:
    tracing, exporter = in_memory_tracing()
    stop = asyncio.Event()
    async with running_upstream(created(), error(404, 20404)) as upstream:
        tenant = await traced.gateway.add_tenant(upstream.url)
        call_id = (await create(tenant)).json()["id"]
        settings = settings_for(database_url, refresh_interval=0.05, worker_poll_interval=0.05)
        async with traced.gateway.database.begin() as session:
            await session.execute(text("UPDATE call SET refresh_at = now()"))
        working = asyncio.create_task(run_worker(settings, Metrics(), stop, tracing))
        await eventually(lambda: any(s.name == "refresh" for s in exporter.get_finished_spans()), "a refresh")
        stop.set()
        await working
    spans = exporter.get_finished_spans()
    (refresh,) = [s for s in spans if s.name == "refresh" and s.attributes and s.attributes["callgate.call_id"] == call_id][:1]
    assert (refresh.parent, links_of(refresh)) == (None, [TRACE])
    assert "Twilio GET Calls/{}" in {span.name for span in spans if trace_of(span) == trace_of(refresh)}
    assert all(span.name == "refresh" for span in spans if span.parent is None), "polls that find no work have no trace"


async def test_a_delivery_is_linked_to_the_creation_and_sends_no_trace_headers(traced: Traced, database_url: str) -> None:
    tracing, exporter = in_memory_tracing()
    stop = asyncio.Event()
    async with running_upstream(created()) as upstream, running_upstream(answer(200)) as receiver:
        tenant = await traced.gateway.add_tenant(upstream.url)
        creation = await create(tenant, status_callback=f"{receiver.url}/pl4nted", status_callback_event=["ringing"])
        await called_back(traced.gateway, tenant, upstream, creation.json()["sid"])
        settings = settings_for(database_url, delivery_allow="127.0.0.0/8", worker_poll_interval=0.05, refresh_interval=60)
        working = asyncio.create_task(run_worker(settings, Metrics(), stop, tracing))
        await eventually(lambda: any(s.name == "deliver" for s in exporter.get_finished_spans()), "a delivery")
        stop.set()
        await working
        assert not [name for request in receiver.received for name in request.headers if name.startswith("trace")]
    spans = exporter.get_finished_spans()
    delivery = next(s for s in spans if s.name == "deliver")
    assert (delivery.parent, links_of(delivery)) == (None, [TRACE])
    sent = next(s for s in spans if s.name == "receiver")
    assert (trace_of(sent), dict(sent.attributes or {})) == (trace_of(delivery), {"callgate.result": "200"})
    assert "pl4nted" not in "".join(span.to_json() for span in spans)


async def test_spans_hold_no_secrets_and_no_personal_data(traced: Traced) -> None:
    async with running_upstream(
        created(), error(400, 21211, "+14155550123 is bad, pl4nted"), error(401, 20003), reset
    ) as upstream:
        tenant = await traced.gateway.add_tenant(upstream.url)
        for _ in range(4):
            await create(tenant, to="sip:kate.private@example.com", sip_auth_username="j", sip_auth_password="pl4nted")
            await create(tenant, to="+14155550123", from_="+14155550123", url="https://u:pl4nted@www.example.com/")
        await called_back(traced.gateway, tenant, upstream, "CA" + "2" * 32)
        await tenant.http.get("/v1/calls", params={"to": "+14155550123"})
        await tenant.http.get("/v1/calls/+14155550123")
        await tenant.http.get("/+14155550123")
        await tenant.http.post("/v1/calls", json={"to": "+14155550123", "pl4nted": "pl4nted"})
        await tenant.http.request("PROPFIND", "/v1/pl4nted")
    assert {"unmatched", "other"} <= {word for span in traced.spans() for word in span.name.split()}
    shown = "\n".join(span.to_json() for span in traced.spans())
    assert len(traced.spans()) > 40
    for planted in (
        "14155550123",
        "kate.private",
        "pl4nted",
        "PL4NTED",
        "example.com",
        "SELECT",
        tenant.key,
        tenant.auth_token,
    ):
        assert planted not in shown


@pytest.mark.parametrize(
    ("sampler", "trace"),
    [(ParentBased(TraceIdRatioBased(0.0)), TRACE), (TraceIdRatioBased(1e-9), f"{1:032x}")],
    ids=["parentbased_traceidratio", "traceidratio"],
)
async def test_a_client_without_a_key_chooses_what_is_sampled(database_url: str, sampler: Sampler, trace: str) -> None:
    """Checks what docs/operations.md says. Only callbacks are sampled as the operator has set."""
    tracing, exporter = in_memory_tracing(sampler)
    async with (
        running_gateway(settings_for(database_url), tracing=tracing) as gateway,
        http_client(base_url=gateway.url) as http,
    ):
        for path in ("/v1/calls", f"{CALLBACK_PATH}/{uuid4()}"):
            await http.post(path, headers={"traceparent": f"00-{trace}-{CALLERS_SPAN}-01"})
    (span,) = exporter.get_finished_spans()
    assert (span.name, trace_of(span)) == ("POST /v1/calls", trace)
    assert dict(span.attributes or {})["http.response.status_code"] == 401


async def test_without_tracing_no_traceparent_is_stored(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await create(tenant)
    async with gateway.database.begin() as session:
        assert (await session.scalars(text("SELECT traceparent FROM call"))).all()[-1] is None


async def test_a_process_exports_its_spans_to_the_standard_otlp_endpoint(
    gateway: Gateway, database_url: str, tmp_path: Path
) -> None:
    received: list[tuple[str, ExportTraceServiceRequest]] = []

    async def take(request: Request) -> Response:
        received.append((request.url.path, ExportTraceServiceRequest.FromString(await request.body())))
        return Response(media_type="application/x-protobuf")

    collecting = FastAPI()
    collecting.add_route("/{path:path}", take, methods=["POST"])
    port = free_port()
    async with (
        running_app(collecting) as collector,
        running_upstream(created()) as upstream,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        configured = environment(
            tmp_path,
            CALLGATE_DATABASE_URL=database_url,
            CALLGATE_SECRET_KEYS=SECRET_KEY,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector,
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            # FastAPI's own telemetry would add the query to its spans, and export logs and metrics.
            FASTAPI_OTEL_AUTO_CONFIGURE="true",
        )
        with running("serve", "--port", str(port), environment=configured, file=tmp_path / "serve") as process:
            await asyncio.to_thread(process.wait_for, "Application startup complete")
            url, key = f"http://127.0.0.1:{port}/v1/calls", {"Authorization": f"Bearer {tenant.key}"}
            async with http_client(headers=key | TRACEPARENT) as http:
                assert (await http.post(url, json=BASIC_CALL)).status_code == 201
                assert (await http.get(url, params={"to": "+14155550123"})).status_code == 200
            process.child.send_signal(signal.SIGTERM)
            await eventually(lambda: process.child.poll() is not None, "the end of the process")
            log = process.output
    assert {path for path, _ in received} == {"/v1/traces"}
    resources = [spans for _, export in received for spans in export.resource_spans]
    assert "callgate" in {a.value.string_value for r in resources for a in r.resource.attributes if a.key == "service.name"}
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert {span.name for span in spans} == {"POST /v1/calls", "GET /v1/calls", "database", "Twilio POST Calls"}
    assert f'"trace_id": "{TRACE}"' in log
    assert "14155550123" not in str(spans) + log


@pytest.mark.parametrize(
    ("variables", "hint"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER=otlp"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "http/protobuf"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "10"}, "max_export_batch_size"),
    ],
)
def test_no_span_is_exported_if_the_variables_say_so_or_cannot_be_followed(
    variables: dict[str, str], hint: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"} | variables).items():
        monkeypatch.setenv(name, value)
    with tracing_from_environment().background_tracing(), trace_background_work("work", caused_by=None, attributes={}):
        assert not has_recording_span()
    log = capsys.readouterr().out
    assert log.count("tracing_unavailable") == (hint is not None)
    assert (hint or "") in log
