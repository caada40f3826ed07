"""The URLs and IP addresses to which deliveries may go, with and without the operator's permission."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.deliveries.addresses import AllowList, DeliveryTarget, UrlError, is_address_allowed, parse_delivery_url
from app.settings import SettingsError, load_settings

PUBLIC_ONLY = AllowList()
EVERYTHING = AllowList.parse("0.0.0.0/0, ::/0, .example.com, example.com, localhost")
PUBLIC = ["93.184.215.14", "8.8.8.8", "172.32.0.1", "100.63.255.255", "2606:2800:21f:cb07::1", "2a00:1450:4001::8a"]
PUBLIC += ["::ffff:8.8.8.8", "2002:808:808::1", "64:ff9b::808:808"]
PRIVATE = ["127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"]
PRIVATE += ["100.127.255.255", "::1", "fc00::1", "fd12:3456::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "2002:a00:1::1"]
PRIVATE += ["64:ff9b::c0a8:101", "2002:7f00:1::"]
NEVER = [
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "febf::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "168.63.129.16",
]
NEVER += [
    "168.63.129.16",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "239.255.255.255",
    "ff02::1",
    "240.0.0.1",
    "255.255.255.255",
]
NEVER += [
    "192.0.0.192",
    "198.18.0.1",
    "::ffff:169.254.169.254",
    "2002:a9fe:a9fe::1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "::7f00:1",
]
NEVER += [
    "::a00:1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "fec0::1",
    "100::1",
    "2001:db8::1",
    "::ffff:0:10.0.0.1",
    "fe80::1%eth0",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_dialled(address: str) -> None:
    assert is_address_allowed(address, "example.com", PUBLIC_ONLY)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_need_the_operators_permission(address: str) -> None:
    assert not is_address_allowed(address, "example.com", PUBLIC_ONLY)
    assert is_address_allowed(address, "example.com", EVERYTHING)


@pytest.mark.parametrize("address", NEVER)
def test_link_local_metadata_and_reserved_addresses_are_never_dialled(address: str) -> None:
    assert not is_address_allowed(address, "example.com", PUBLIC_ONLY)
    assert not is_address_allowed(address, "example.com", EVERYTHING)


@given(st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address))
def test_addresses_that_python_calls_private_need_the_operators_permission(address: IPv4Address | IPv6Address) -> None:
    if address.is_private or address.is_multicast or address.is_link_local or address.is_reserved or address.is_unspecified:
        assert not is_address_allowed(str(address), "example.com", PUBLIC_ONLY)


@pytest.mark.parametrize(
    ("allow", "host", "address", "expected"),
    [
        ("10.0.0.0/8", "a.example", "10.1.2.3", True),
        ("10.0.0.0/8", "a.example", "192.168.0.1", False),
        ("10.0.0.0/8", "a.example", "::ffff:10.1.2.3", True),
        ("fd00::/8", "a.example", "fd01::1", True),
        ("192.168.1.7", "a.example", "192.168.1.7", True),
        (".svc.cluster.local", "hooks.shop.svc.cluster.local", "10.96.0.12", True),
        (".svc.cluster.local", "HOOKS.shop.SVC.cluster.local", "10.96.0.12", True),
        (".svc.cluster.local", "svc.cluster.local", "10.96.0.12", False),
        (".svc.cluster.local", "evilsvc.cluster.local", "10.96.0.12", False),
        (".svc.cluster.local", "a.svc.cluster.local.evil.example", "10.96.0.12", False),
        ("hooks", "hooks", "10.96.0.12", True),
        ("hooks", "a.hooks", "10.96.0.12", False),
        (" .Svc.Cluster.Local , 10.0.0.0/8 ", "a.svc.cluster.local", "192.168.0.1", True),
    ],
)
def test_the_operator_allows_networks_hosts_and_suffixes(allow: str, host: str, address: str, expected: bool) -> None:
    assert is_address_allowed(address, host, AllowList.parse(allow)) is expected


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port"),
    [
        ("https://example.com", "https", "example.com", 443),
        ("http://example.com/", "http", "example.com", 80),
        ("HTTPS://Example.COM:8443/a/b?c=d&e=%20f#rc=2", "https", "example.com", 8443),
        ("https://example.com:/", "https", "example.com", 443),
        ("https://xn--bcher-kva.example/", "https", "xn--bcher-kva.example", 443),
        ("http://my_service:8080/hook", "http", "my_service", 8080),
        ("http://8.8.8.8/?q=a:b@c/d?e", "http", "8.8.8.8", 80),
        ("http://[2606:2800:21f:cb07::1]:81/", "http", "2606:2800:21f:cb07::1", 81),
        ("https://1password.example/0x7f/127.1", "https", "1password.example", 443),
    ],
)
def test_a_url_is_read(url: str, scheme: str, host: str, port: int) -> None:
    read = parse_delivery_url(url, PUBLIC_ONLY)
    assert isinstance(read, DeliveryTarget)
    assert (read.scheme, read.host, read.port) == (scheme, host, port)
    assert read.address == (ip_address(host) if host[0] in "28" else None)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "url_scheme"),
        ("example.com/hook", "url_scheme"),
        ("//example.com/hook", "url_scheme"),
        ("ftp://example.com/", "url_scheme"),
        ("file:///etc/passwd", "url_scheme"),
        ("gopher://127.0.0.1:6379/_", "url_scheme"),
        (" https://example.com/", "url_scheme"),
        ("https:example.com", "url_syntax"),
        ("https:/example.com", "url_syntax"),
        ("https://example.com/a b", "url_syntax"),
        ("https://example.com/\r\nX-A: 1", "url_syntax"),
        ("https://example.com/\t", "url_syntax"),
        ("https://example.com/a\\b", "url_syntax"),
        ("https://example.com/%zz", "url_syntax"),
        ("https://example.com/?a[]=1", "url_syntax"),
        ("https://example.com/é", "url_not_ascii"),
        ("https://bücher.example/", "url_not_ascii"),
        ("https://１２７.0.0.1/", "url_not_ascii"),
        ("https://127。0。0。1/", "url_not_ascii"),
        ("https://ⓔxample.com/", "url_not_ascii"),
        ("https://\N{KELVIN SIGN}elvin.example/", "url_not_ascii"),
        ("https://user:secret@example.com/", "url_credentials"),
        ("https://user@example.com/", "url_credentials"),
        ("https://@example.com/", "url_credentials"),
        ("https://example.com@127.0.0.1/", "url_credentials"),
        ("https://", "url_host"),
        ("https:///path", "url_host"),
        ("https://:443/", "url_host"),
        ("https://example.com./", "url_host"),
        ("https://127.0.0.1./", "url_host"),
        ("https://example..com/", "url_host"),
        ("https://.example.com/", "url_host"),
        ("https://-a.example/", "url_host"),
        ("https://a%2eexample.com/", "url_host"),
        ("https://example.com\\@127.0.0.1/", "url_credentials"),
        ("https://example.com\\.evil.example/", "url_host"),
        ("https://exa mple.com/", "url_host"),
        (f"https://{'a' * 64}.example/", "url_host"),
        (f"https://{'a.' * 127}example/", "url_host"),
        ("http://127.1/", "url_host"),
        ("http://0177.0.0.1/", "url_host"),
        ("http://0x7f000001/", "url_host"),
        ("http://0x7f.0.0.1/", "url_host"),
        ("http://2130706433/", "url_host"),
        ("http://127.0.0.01/", "url_host"),
        ("http://256.0.0.1/", "url_host"),
        ("http://1.2.3.4.5/", "url_host"),
        ("http://a.0x/", "url_host"),
        ("http://::1/", "url_host"),
        ("http://[::1/", "url_host"),
        ("http://[::1]a/", "url_host"),
        ("http://[127.0.0.1]/", "url_host"),
        ("http://[fe80::1%25eth0]/", "url_host"),
        ("http://[v1.a]/", "url_host"),
        ("https://example.com:0/", "url_port"),
        ("https://example.com:65536/", "url_port"),
        ("https://example.com:99999999999999999999/", "url_port"),
        ("https://example.com:8o/", "url_host"),
        ("http://127.0.0.1/", "url_address_private"),
        ("http://localhost:3000/", "url_address_private"),
        ("http://a.localhost/", "url_address_private"),
        ("http://LOCALHOST/", "url_address_private"),
        ("http://10.1.2.3/", "url_address_private"),
        ("http://[::1]/", "url_address_private"),
        ("http://[::ffff:7f00:1]/", "url_address_private"),
        ("http://[fd00::1]/", "url_address_private"),
        ("http://169.254.169.254/latest/meta-data/", "url_address_refused"),
        ("http://[fd00:ec2::254]/", "url_address_refused"),
        ("http://[::ffff:169.254.169.254]/", "url_address_refused"),
        ("http://[::]/", "url_address_refused"),
        ("http://0.0.0.0/", "url_address_refused"),
        (f"https://example.com/{'a' * 2048}", "url_too_long"),
    ],
)
def test_an_invalid_url_is_refused_with_a_code(url: str, code: str) -> None:
    read = parse_delivery_url(url, PUBLIC_ONLY)
    assert isinstance(read, UrlError)
    assert read.code == code
    assert "secret" not in read.detail


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://localhost/", "http://[::1]/", "http://192.168.0.1/"])
def test_private_urls_are_valid_with_the_operators_permission(url: str) -> None:
    assert isinstance(parse_delivery_url(url, EVERYTHING), DeliveryTarget)


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://0.0.0.0/"])
def test_metadata_addresses_are_refused_in_any_case(url: str) -> None:
    read = parse_delivery_url(url, EVERYTHING)
    assert isinstance(read, UrlError)
    assert read.code == "url_address_refused"


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "10.0.0.1/8", "300.1.1.1", "*.example.com", "http://a", "a..b", "1.2"])
def test_an_invalid_entry_of_the_allow_list_is_reported(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLGATE_DELIVERY_ALLOW", f"10.0.0.0/8,{entry}")
    with pytest.raises(SettingsError, match="CALLGATE_DELIVERY_ALLOW"):
        load_settings()
