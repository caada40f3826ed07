"""Batched lookups of keys and credentials give each creation the same answer as a single lookup."""

import base64
import itertools

from app.security.keyring import Keyring
from app.tenants.api_keys import api_key_public_part
from app.tenants.directory import TenantDirectory
from app.tenants.directory_store import find_api_keys, list_credentials_of_usable_accounts
from tests.support.gateway import SECRET_KEY, Gateway


async def test_batched_key_lookups_return_each_key_in_order(gateway: Gateway) -> None:
    anna, bob = [await gateway.add_tenant() for _ in range(2)]
    await gateway.tenants.set_tenant_suspended(bob.id, suspended=True)
    asked = [api_key_public_part(bob.key), "cgk_nobody", api_key_public_part(anna.key), api_key_public_part(bob.key)]
    bobs, nobodys, annas, bobs_again = await find_api_keys(gateway.database, asked)
    assert nobodys is None
    assert annas
    assert (annas.tenant_id, annas.suspended_at) == (anna.id, None)
    assert bobs
    assert bobs == bobs_again
    assert bobs.tenant_id == bob.id
    assert bobs.suspended_at


async def test_credentials_are_those_of_one_account_with_rejected_ones_last(gateway: Gateway) -> None:
    anna, bob = [await gateway.add_tenant() for _ in range(2)]
    await gateway.tenants.create_tenant(nobody := f"{anna.id}-2", name="without an account")
    second = f"AC{anna.id.encode().hex():f>32}"
    for account_sid in (second, anna.account_sid):
        await gateway.tenants.add_credential(
            anna.id, account_sid=account_sid, secret="another", key_sid=f"SK{7:032x}", base_url=None
        )
    (_, (refused, kept)), (_, (of_second,)) = await gateway.tenants.list_accounts(anna.id)
    async with gateway.database.begin() as session:
        await gateway.directory.mark_credentials_rejected_and_accepted(
            session, rejected={str(refused.id)}, accepted=set(), reason="refused"
        )
    wanted = [(bob.id, None), (nobody, None), (anna.id, second), (anna.id, None), (anna.id, bob.account_sid)]
    listed = await list_credentials_of_usable_accounts(gateway.database, wanted)
    assert [[(each.account_sid, each.id) for each in credentials] for credentials in listed[1:]] == [
        [],
        [(second, of_second.id)],
        [(anna.account_sid, kept.id), (anna.account_sid, refused.id)],
        [],
    ]
    assert {each.account_sid for each in listed[0]} == {bob.account_sid}
    for credential in (kept, refused):
        await gateway.tenants.revoke_credential(anna.id, credential.id)
    (oldest_usable,) = await list_credentials_of_usable_accounts(gateway.database, [(anna.id, None)])
    assert [each.id for each in oldest_usable] == [of_second.id]
    await gateway.tenants.revoke_credential(anna.id, of_second.id)
    assert await list_credentials_of_usable_accounts(gateway.database, [(anna.id, None), (anna.id, second)]) == [[], []]


async def test_processes_with_another_order_of_keys_do_not_hash_an_api_key_again_and_again(gateway: Gateway) -> None:
    old, new = base64.b64decode(SECRET_KEY), bytes(range(32))
    tenant = await gateway.add_tenant()
    directories = [TenantDirectory(gateway.database, Keyring(keys)) for keys in ([old, new], [new, old])]
    hashes = []
    for _ in range(5):
        for directory in directories:
            assert await directory.find_api_key(tenant.key)
            (stored,) = await find_api_keys(gateway.database, [api_key_public_part(tenant.key)])
            assert stored
            hashes.append(stored.keyed_hash)
    changes = sum(before != after for before, after in itertools.pairwise(hashes))
    assert 1 <= changes <= 2
