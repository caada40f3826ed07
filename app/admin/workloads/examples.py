"""Examples of workloads for the OpenAPI document."""

from typing import Any

WORKLOAD: dict[str, Any] = {
    "id": "01989f5e-7c3a-7b61-b1f0-5e2a4d9c8f10",
    "namespace": "support",
    "service_account": "dialler",
    "issuer": "https://kubernetes.default.svc.cluster.local",
    "scopes": ["call", "read"],
    "created_at": "2026-11-28T09:30:00.123Z",
}
CREATION_BODIES: dict[str, Any] = {
    "workload": {
        "summary": "A service that places calls",
        "value": {"namespace": "support", "service_account": "dialler"},
    },
    "reader": {
        "summary": "A service that reads, of another cluster",
        "value": {
            "namespace": "support",
            "service_account": "dashboard",
            "scopes": ["read"],
            "issuer": "https://oidc.example.com/cluster-2",
        },
    },
}
RESPONSE_BODIES: dict[str, Any] = {
    "workload": {"summary": "A workload", "value": WORKLOAD},
    "workloads": {"summary": "The last page", "value": {"workloads": [WORKLOAD], "next_cursor": None}},
}
