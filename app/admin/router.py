"""All routes of the admin API."""

from fastapi import APIRouter

from app.admin.accounts import router as accounts_router
from app.admin.audit_events import router as audit_events_router
from app.admin.keys import router as keys_router
from app.admin.sip_credentials import router as sip_credentials_router
from app.admin.tenants import router as tenants_router
from app.admin.workloads import router as workloads_router

ROUTERS: tuple[APIRouter, ...] = (
    tenants_router.router,
    accounts_router.router,
    keys_router.router,
    sip_credentials_router.router,
    workloads_router.router,
    audit_events_router.router,
)
