"""What the sink `email` writes into a mail, and what it refuses to write."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import Header, decode_header
from email.policy import compat32, default
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidefx import Attachment, EmailEvent, PermanentError, email
from sidefx_sinks.email.address import mailbox, masked
from sidefx_sinks.email.message import Mail, compose
from sidefx_sinks.email.templates import Templates

if TYPE_CHECKING:
    from email.message import EmailMessage
    from pathlib import Path

SHOP = mailbox("Shop <shop@example.org>")

EVIL = [
    "a\r\nBcc: evil@evil.test",
    "a\nBcc: evil@evil.test",
    "a\rBcc: evil@evil.test",
    "a\r\n\r\nevil",
    "evil\0",
    "evil\tb",
    "evil\x1b[31m",
    "evil\x7f",
    "evil\x85Bcc: b",
    "evil\u2028Bcc: b",
    "evil\ud800",
    "=?utf-8?q?=0D=0ABcc:_evil@evil.test?=",
    "=?UTF-8?Q?evil=0ABcc=3A_b?=",
    "=?utf-8?b?DQpCY2M6IGV2aWxAZXZpbC50ZXN0?=",
    "=?utf-8*en?q?evil=0D?=",
    "=?nonsense?q?evil=0A?=",
    "=?utf-16?b?" + "CgA=" + "?=",
    "=?utf-7?q?+AA0ACg-evil?=",
    "evil=?utf-8?q?=0D=0A?=evil",
    "=?utf-8?q?=3D=3Futf-8=3Fq=3F=3D0D=3D0Aevil=3F=3D?=",
    "=?utf-8?b?evil1?=",
    "evil =?utf-8?q?=00?=",
]
"""Line breaks and other control characters: as they are, and behind RFC 2047's encoded words."""


def letter(**values: Any) -> EmailEvent:
    """A mail with nothing wrong in it, but for `values`; unvalidated, as a hostile caller might have it."""
    fields = {"to": ("ann@example.org",), "subject": "Hello", "text": "Hi"} | values
    return EmailEvent.model_construct(None, **{**email(to="a@b.c", subject="", text="").__dict__, **fields})


def composed(max_bytes: int = 1_000_000, **values: Any) -> Mail:
    """That mail, composed."""
    event = letter(**values)
    return compose(event, SHOP, text=event.text, html=event.html, max_bytes=max_bytes)


def parsed(mail: Mail) -> EmailMessage:
    """What a receiver reads."""
    return message_from_bytes(mail.content, policy=default)


def test_the_head_says_who_when_and_what() -> None:
    """From, To, Cc, Reply-To, Subject, Date and Message-ID come from the event and its sender."""
    mail = composed(
        to=("Ann <ann@example.org>", '"O\'Neill, \\"Bob\\"" <bob@example.org>'),
        cc=("Zoë Ångström <zoe@example.org>",),
        reply_to=("help@example.org",),
        subject="Grüße aus Köln",
        at=datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC),
    )
    message = parsed(mail)
    assert message["From"] == "Shop <shop@example.org>"
    assert [(one.display_name, one.addr_spec) for one in message["To"].addresses] == [
        ("Ann", "ann@example.org"),
        ('O\'Neill, "Bob"', "bob@example.org"),
    ]
    assert message["Cc"] == "Zoë Ångström <zoe@example.org>"
    assert message["Reply-To"] == "help@example.org"
    assert message["Subject"] == "Grüße aus Köln"
    assert message["Date"].datetime == datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    assert message["Auto-Submitted"] == "auto-generated"
    assert mail.content.isascii()


def test_the_message_id_is_the_events() -> None:
    """Two attempts at one event have one Message-ID, at the sender's domain."""
    event = letter()
    first, second = (compose(event, SHOP, text="a", html=None, max_bytes=10_000) for _ in range(2))
    assert parsed(first)["Message-ID"] == parsed(second)["Message-ID"] == f"<{event.id}@example.org>"


def test_bcc_is_in_the_envelope_and_nowhere_else() -> None:
    """Blind copies stay blind, and a mail to them alone has a To that names nobody."""
    mail = composed(to=(), bcc=("hidden@example.org",))
    assert mail.recipients == ("hidden@example.org",)
    assert b"hidden" not in mail.content
    assert parsed(mail)["To"] == "undisclosed-recipients:;"


def test_a_recipient_named_twice_has_one_mail() -> None:
    """An address in to, cc and bcc stands once in the envelope."""
    mail = composed(cc=("Ann <ann@example.org>",), bcc=("ann@example.org", "bob@example.org"))
    assert mail.recipients == ("ann@example.org", "bob@example.org")


def test_domains_are_compared_without_regard_to_case() -> None:
    """What stands before the `@` is the receiving server's to interpret."""
    mail = composed(to=("ann@Example.ORG",), cc=("ann@example.org", "Ann@example.org"))
    assert mail.recipients == ("ann@example.org", "Ann@example.org")


def test_long_urls_in_headers_stay_whole() -> None:
    """List-Unsubscribe with a long token is not folded into something that no client can read."""
    url = f"<https://example.org/unsubscribe?token={'a' * 300}>"
    assert url.encode() in composed(headers={"List-Unsubscribe": url}).content


UNSUBSCRIBE = "https://shop.example.org/unsubscribe?token=a.b-c_d"


def test_one_click_unsubscribe() -> None:
    """RFC 8058: the URL, and the promise that a POST to it is enough."""
    head = composed(unsubscribe=(UNSUBSCRIBE,)).head.decode()
    assert f"\r\nList-Unsubscribe: <{UNSUBSCRIBE}>\r\n" in head
    assert "\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in head


def test_unsubscribe_by_mail_is_no_click() -> None:
    """A mailto URL goes beside, and promises nothing by itself."""
    mailto = "mailto:unsubscribe@example.org?subject=off"
    both = parsed(composed(unsubscribe=(UNSUBSCRIBE, mailto)))
    assert both["List-Unsubscribe"] == f"<{UNSUBSCRIBE}>, <{mailto}>"
    assert "List-Unsubscribe-Post" in both
    assert "List-Unsubscribe-Post" not in parsed(composed(unsubscribe=(mailto,), cc=("bob@example.org",)))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"unsubscribe": (UNSUBSCRIBE,), "cc": ("bob@example.org",)}, "each recipient a mail of their own"),
        ({"unsubscribe": (UNSUBSCRIBE, UNSUBSCRIBE)}, "one such URL"),
        ({"unsubscribe": (UNSUBSCRIBE,), "headers": {"list-unsubscribe-post": "x"}}, "both in headers"),
        *(
            ({"unsubscribe": (url,)}, "URL in 'unsubscribe' is refused")
            for url in (
                "http://example.org/", "https://", "https:///x", "ftp://example.org", "https://example.org/ä",
                "https://example.org/a b", "https://example.org/>,<https://evil.test/", "https://e.org/\r\nBcc: a@b.c",
                "https://example.org/a,b", "mailto:", "https://example.org/" + "a" * 1000, "", "https://example.org/\n",
            )
        ),
    ],
)  # fmt: skip
def test_unsubscribe_urls_that_cannot_work(values: dict[str, Any], reason: str) -> None:
    """They are refused: one that a mail program cannot fetch, and one that would unsubscribe somebody else."""
    with pytest.raises(PermanentError, match=reason):
        composed(**values)


def test_a_redirected_mail_names_those_whom_it_is_kept_from() -> None:
    """Envelope, To, Cc and Bcc have the one address of staging; a reply to all reaches no customer."""
    event = letter(to=("Ann <ann@example.org>",), cc=("bob@example.org",), bcc=("cid@example.org", "dan@example.org"))
    qa = mailbox("QA <qa@staging.example>")
    mail = compose(event, SHOP, text="a", html=None, max_bytes=10_000, redirect_to=[qa])
    message = parsed(mail)
    assert mail.recipients == ("qa@staging.example",)
    assert (message["To"], message["Cc"], message["Bcc"]) == ("QA <qa@staging.example>", None, None)
    assert message["X-Original-To"] == '"Ann" <ann@example.org>'
    assert message["X-Original-Cc"] == "bob@example.org"
    assert message["X-Original-Bcc"] == "cid@example.org, dan@example.org"


def test_a_redirected_mail_answers_to_no_stranger_and_acts_for_none() -> None:
    """A reply, a click that unsubscribes and a receipt of reading would reach those whom staging is to protect."""
    event = letter(
        reply_to=("customer@example.com",),
        unsubscribe=("https://shop.example/u?t=ann",),
        headers={"disposition-Notification-To": "boss@example.com", "X-Kept": "a"},
    )
    qa = mailbox("qa@staging.example")
    message = parsed(compose(event, SHOP, text="a", html=None, max_bytes=10_000, redirect_to=[qa]))
    assert message["Reply-To"] == "qa@staging.example"
    assert message["X-Original-Reply-To"] == "customer@example.com"
    assert message["X-Original-List-Unsubscribe"] == "<https://shop.example/u?t=ann>"
    assert message["X-Original-List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert message["X-Original-Disposition-Notification-To"] == "boss@example.com"
    assert message["X-Kept"] == "a"
    for name in ("List-Unsubscribe", "List-Unsubscribe-Post", "Disposition-Notification-To"):
        assert message[name] is None


def test_tags_are_one_header() -> None:
    """Tags go into X-Tags, separated by commas."""
    assert parsed(composed(tags=("receipt", "größe")))["X-Tags"] == "receipt, größe"


def test_text_and_html_are_alternatives() -> None:
    """A client picks what it can show, the richest last."""
    message = parsed(composed(text="Hällo", html="<p>Hällo"))
    assert [part.get_content_type() for part in message.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    assert [part.get_content().strip() for part in message.iter_parts()] == ["Hällo", "<p>Hällo"]


@pytest.mark.parametrize("text", ["Hi", None])
def test_attachments_and_inline_images(text: str | None) -> None:
    """A file is attached under its name and type; one with a content id belongs to the HTML."""
    files = (
        Attachment(filename="Größe 1.pdf", content=b"%PDF", content_type="application/pdf"),
        Attachment(filename='lo"go.png', content=b"\x89PNG", content_type="image/png", content_id="logo@shop"),
        Attachment(filename="cal.ics", content=b"BEGIN", content_type="text/calendar; method=REQUEST; charset=utf-8"),
    )
    message = parsed(composed(text=text, html='<img src="cid:logo@shop">', attachments=files))
    assert message.get_content_type() == "multipart/mixed"
    logo = next(part for part in message.walk() if part.get_content_type() == "image/png")
    related = next(part for part in message.walk() if part.get_content_type() == "multipart/related")
    assert [part.get_content_type() for part in related.iter_parts()] == ["text/html", "image/png"]
    assert (logo["Content-ID"], logo.get_content_disposition()) == ("<logo@shop>", "inline")
    assert (logo.get_filename(), logo.get_content()) == ('lo"go.png', b"\x89PNG")
    pdf, calendar = message.iter_attachments()
    assert (pdf.get_filename(), pdf.get_content(), pdf.get_content_type()) == (
        "Größe 1.pdf",
        b"%PDF",
        "application/pdf",
    )
    assert calendar["Content-Type"].params["method"] == "REQUEST"


def test_an_inline_part_without_html_is_attached() -> None:
    """Where no HTML can refer to it, a part with a content id is an ordinary one."""
    files = (Attachment(filename="a.png", content=b"x", content_type="image/png", content_id="a"),)
    assert [part.get_content_type() for part in parsed(composed(attachments=files)).walk()][1:] == [
        "text/plain",
        "image/png",
    ]


@pytest.mark.parametrize("value", EVIL)
@pytest.mark.parametrize(
    ("where", "values"),
    [
        ("'Subject'", lambda evil: {"subject": evil}),
        ("'X-Note'", lambda evil: {"headers": {"X-Note": evil}}),
        ("'to'", lambda evil: {"to": (f"{evil} <ann@example.org>",)}),
        ("'to'", lambda evil: {"to": (f'"{evil}" <ann@example.org>',)}),
        ("'cc'", lambda evil: {"cc": (f"{evil}@example.org",)}),
        ("'bcc'", lambda evil: {"bcc": (f"ann@{evil}",)}),
        ("'bcc'", lambda evil: {"bcc": (f"ann@example.org{evil}",)}),
        ("'reply_to'", lambda evil: {"reply_to": (f'"{evil}" <ann@example.org>',)}),
        ("header", lambda evil: {"headers": {evil: "x"}}),
        ("X-Tags", lambda evil: {"tags": ("ok", evil)}),
        ("filename", lambda evil: {"attachments": (_file(filename=evil),)}),
        ("content type", lambda evil: {"attachments": (_file(content_type=f"text/{evil}"),)}),
        ("content type", lambda evil: {"attachments": (_file(content_type=f"text/plain; name={evil}"),)}),
        ("'unsubscribe'", lambda evil: {"unsubscribe": (f"https://example.org/{evil}",)}),
        ("'unsubscribe'", lambda evil: {"unsubscribe": (f"mailto:off@example.org?subject={evil}",)}),
        ("content id", lambda evil: {"attachments": (_file(content_id=evil),)}),
    ],
)
def test_nothing_breaks_out_of_its_header(where: str, values: Any, value: str) -> None:
    """A control character, plain or encoded, is refused wherever a value becomes part of a header."""
    with pytest.raises(PermanentError) as refused:
        composed(**values(value))
    assert where in str(refused.value)
    assert "\n" not in str(refused.value)
    if where != "header":  # a header's name is the application's own, and is told
        assert "evil" not in str(refused.value)


def _file(**values: Any) -> Attachment:
    return Attachment.model_construct(
        None, **{"filename": "a", "content": b"a", "content_type": "text/plain", "content_id": None} | values
    )


FIRST_HALF, SECOND_HALF = "=?utf-8?q?=0D=0ABcc:evil", "x?="


@pytest.mark.parametrize(
    "values",
    [
        {"to": (f"{FIRST_HALF} <ann@example.org>", f"{SECOND_HALF} <bob@example.org>")},
        {"to": (f"{FIRST_HALF}@example.org", f"{SECOND_HALF}@example.org")},
        {"reply_to": (f'"{FIRST_HALF}" <ann@example.org>', f"{SECOND_HALF}@example.org")},
        {"unsubscribe": (f"https://example.org/{FIRST_HALF}", f"mailto:{SECOND_HALF}")},
        {"tags": (FIRST_HALF, SECOND_HALF)},
    ],
)
def test_two_values_of_one_header_cannot_make_an_encoded_word(values: dict[str, Any]) -> None:
    """What one of them begins and the other ends is refused, or written so that no reader takes it for one."""
    try:
        content = composed(**values).content
    except PermanentError:
        return
    for value in message_from_bytes(content, policy=compat32).values():
        unfolded = value.replace("\r\n", "").replace("\n", "")
        words = [
            word if isinstance(word, str) else word.decode(charset or "ascii")
            for word, charset in decode_header(unfolded)
        ]
        assert "\r" not in "".join(words)


def test_a_quoted_name_cannot_hide_an_encoded_word_behind_backslashes() -> None:
    """What is left when the backslashes have gone is looked at again."""
    with pytest.raises(PermanentError, match="'to'"):
        composed(to=(r'"=\?utf-8?q?=0D=0ABcc:x?\=" <ann@example.org>',))


PIECES = st.sampled_from(
    ["\r\n", "\n", "\r", "=?", "?=", "utf-8", "?q?", "?b?", "=0D=0A", "DQo=", "Bcc: ", " ", "\t", '"', "\\", "<", ">",
     ";", "ä", "\u2028", "a@b.c", ",", ":", "x" * 40, "*", "'", "%0D%0A", "="]
)  # fmt: skip
HOSTILE = st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)


@pytest.mark.parametrize("place", ["subject", "name", "note", "filename"])
@settings(max_examples=200, deadline=None)
@given(value=HOSTILE)
def test_whatever_the_value_the_mail_has_the_headers_that_it_should(place: str, value: str) -> None:
    """Either it is refused, or every reader finds just our headers, in the head and in the parts."""
    values = {"subject": "s", "name": "n", "note": "o", "filename": "f"} | {place: value}
    try:
        mail = composed(
            subject=values["subject"],
            to=(f'"{values["name"]}" <ann@example.org>',),
            headers={"X-Note": values["note"]},
            attachments=(_file(filename=values["filename"]),),
        )
    except PermanentError:
        return
    for policy in (compat32, default):
        message: Any = message_from_bytes(mail.content, policy=policy)
        ours = [
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "Auto-Submitted",
            "X-Note",
            "MIME-Version",
            "Content-Type",
        ]
        assert message.keys() == ours
        for part in message.get_payload():
            assert {key.partition("-")[0] for key in part.keys()} <= {"Content", "MIME"}  # noqa: SIM118 - no mapping
        again = message.as_bytes(policy=policy)
        assert message_from_bytes(again, policy=policy).keys() == ours
    assert mail.recipients == ("ann@example.org",)


@pytest.mark.parametrize(
    "name",
    ["From", "to", "BCC", "Subject", "Date", "Message-Id", "MIME-Version", "Content-Type", "content-transfer-encoding",
     "Sender", "Return-Path", "Received", "Reply-To", "Resent-To", "Auto-Submitted", "X-Tags"],
)  # fmt: skip
def test_headers_that_make_the_mail_are_not_the_events(name: str) -> None:
    """A header that the sink or a server writes cannot be set, in any case of letters."""
    with pytest.raises(PermanentError, match=f"'{name}' is written by the sink"):
        composed(headers={name: "x"})


@pytest.mark.parametrize("name", ["", "X Note", "X-Note:", "X-Nöte", "X" * 77])
def test_header_names_are_field_names(name: str) -> None:
    """RFC 5322's field names, and no others."""
    with pytest.raises(PermanentError, match="not the name of a header field"):
        composed(headers={name: "x"})


@pytest.mark.parametrize(
    "address",
    ["", "ann", "@example.org", "ann@", "ann@example..org", "ann@-example.org", "a b@example.org", "a@b@example.org",
     "ann@example.org, bob@example.org", "ann@example.org bob@example.org", "<ann@example.org> <bob@example.org>",
     "Ann, Bob <ann@example.org>", "Ann <ann@example.org> x", ".ann@example.org", "ann.@example.org",
     "ann@exa mple.org", "ann@example.org>", '"a b"@example.org', "group: ann@example.org;",
     f"{'a' * 65}@example.org", "ann@[127.0.0.1]",
     "a\u3000b@example.org", "a\u00a0b@example.org", "a\u2003b@example.org", "Ann <a\u1680b@example.org>",
     "ann@example.org SIZE=1", "x" * 9000 + "@example.org"],
)  # fmt: skip
def test_an_address_is_exactly_one(address: str) -> None:
    """Anything that is not one address is refused, by the field's name and without the value."""
    with pytest.raises(PermanentError, match="an address in 'cc' is refused") as refused:
        composed(cc=(address,))
    assert len(address) < 13 or address not in str(refused.value)


def test_international_addresses() -> None:
    """A domain goes out in its IDNA form; a local part beyond ASCII asks for SMTPUTF8, and is kept as it is."""
    plain = composed(to=("Ann <ann@straße.example>",))
    assert (plain.recipients, plain.international) == (("ann@xn--strae-oqa.example",), False)
    assert plain.content.isascii()
    international = composed(to=("Änne <änne@exämple.org>",))
    assert (international.recipients, international.international) == (("änne@xn--exmple-cua.org",), True)
    assert "<änne@xn--exmple-cua.org>".encode() in international.content


def test_a_head_for_servers_without_smtputf8() -> None:
    """There an international address is a group without members that names it; the others are as ever."""
    mail = composed(to=("Änne <änne@exämple.org>", "Bob <bob@example.org>"), cc=("zoë@example.org",))
    assert mail.plain_head is not None
    assert mail.plain_head.isascii()
    message = message_from_bytes(mail.plain_head + mail.body, policy=default)
    assert [one.addr_spec for one in message["To"].addresses] == ["bob@example.org"]
    assert message["To"].groups[0].display_name == "Änne änne@xn--exmple-cua.org"
    assert [one.display_name for one in message["Cc"].groups] == ["zoë@example.org"]


def test_nobody_stands_in_for_an_international_sender() -> None:
    """A mail has to have an address that it is from."""
    mail = compose(letter(), mailbox("änne@example.org"), text="a", html=None, max_bytes=10_000)
    assert (mail.international, mail.plain_head) == (True, None)


@pytest.mark.parametrize(
    "content_type", ["", "text", "text/", "a b/c", "message/rfc822", "multipart/mixed", "text/plain;"]
)
def test_content_types_are_types(content_type: str) -> None:
    """An attachment's type is TYPE/SUBTYPE, and one that can be encoded."""
    with pytest.raises(PermanentError, match="content type is refused"):
        composed(attachments=(_file(content_type=content_type),))


def test_a_mail_that_is_too_large_is_rejected() -> None:
    """`max_message_bytes` is of the whole mail, with its attachments encoded."""
    file = _file(content=b"x" * 800)
    assert len(composed(attachments=(file,)).content) > 1000
    with pytest.raises(PermanentError, match="larger than max_message_bytes"):
        composed(max_bytes=1000, attachments=(file,))
    with pytest.raises(PermanentError, match="larger than max_message_bytes"):
        composed(max_bytes=700, attachments=(file,))


def test_a_header_that_cannot_be_folded_is_rejected() -> None:
    """No line is longer than RFC 5322 allows; no value is longer than is looked through in good time."""
    with pytest.raises(PermanentError, match="998"):
        composed(headers={"X-Note": "a" * 1200})
    with pytest.raises(PermanentError, match="8192"):
        composed(headers={"X-Note": "a " * 5000})


@pytest.mark.parametrize("values", [{"text": "a\0b"}, {"text": None, "html": "a\0b"}, {"html": "a\0b"}])
def test_a_nul_is_no_text(values: dict[str, Any]) -> None:
    """Servers refuse it, cut the mail there, or drop it."""
    with pytest.raises(PermanentError, match="contains a NUL"):
        composed(**values)


@pytest.mark.parametrize("filename", ["", "  "])
def test_an_attachment_has_a_name(filename: str) -> None:
    """Mail programs hide one without."""
    with pytest.raises(PermanentError, match="filename is refused: it is empty"):
        composed(attachments=(_file(filename=filename),))


def test_text_that_is_no_text_is_rejected() -> None:
    """Half of a surrogate pair in a body is a permanent error, not a crash that is tried again."""
    with pytest.raises(PermanentError, match="surrogate"):
        composed(text="a\ud800")


def test_literal_encoded_words_do_no_harm() -> None:
    """An encoded word without control characters passes, and is read as what it stands for."""
    assert parsed(composed(subject=Header("Grüße", "utf-8").encode()))["Subject"] == "Grüße"


def test_addresses_are_masked() -> None:
    """A log line has the first letter and the domain."""
    assert masked("ann@example.org") == "a***@example.org"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Templates for the tests below."""
    files = {
        "receipt.txt": "Order {{ order }} for {{ name }}",
        "receipt.html": "<p>{% include '_name.html' %}</p>",
        "_name.html": "<b>{{ name }}</b>",
        "plain.txt": "x",
        "escape.txt": "{{ ''.__class__.__mro__ }}",
        "mutate.txt": "{{ items.append(1) }}",
        "broken.txt": "a\n{% if %}",
        "divide.txt": "a\nb\n{{ 1 / (name|length - 3) }}",
        "deep.txt": "a\n{% include 'divide.txt' %}",
        "lacks.txt": "{% include 'nowhere.txt' %}",
        "endless.txt": "{% for i in range(90000) %}{{ name }}{% endfor %}",
        "recursion.txt": "{% include 'recursion.txt' %}",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path.parent / "outside.txt").write_text("secret")
    return tmp_path


def rendered(directory: Path, template: str, **context: Any) -> tuple[str | None, str | None]:
    """Both forms of that template."""
    return Templates(directory, max_characters=10_000).render(template, context)


def test_a_template_has_a_text_and_an_html_form(directory: Path) -> None:
    """Either may be left out; values are escaped in HTML, and only there."""
    assert rendered(directory, "receipt", order=7, name="<Ann>") == (
        "Order 7 for <Ann>",
        "<p><b>&lt;Ann&gt;</b></p>",
    )
    assert rendered(directory, "plain") == ("x", None)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/b", "..", ".hidden", "a\\b", "", "a\n", "C:x", "receipt\0", "*"]
)
def test_a_template_is_a_name_and_no_path(directory: Path, name: str) -> None:
    """Nothing outside the directory can be named."""
    with pytest.raises(PermanentError, match="is refused"):
        rendered(directory, name)


def test_a_missing_template_is_named_with_its_directory(directory: Path) -> None:
    """The error says what was looked for and where."""
    with pytest.raises(PermanentError) as missing:
        rendered(directory, "recipe")
    assert "recipe.txt nor recipe.html" in str(missing.value)
    assert str(directory) in str(missing.value)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("receipt", "UndefinedError at receipt.txt, line 1"),
        ("escape", "SecurityError at escape.txt, line 1"),
        ("mutate", "SecurityError at mutate.txt, line 1"),
        ("broken", "broken.txt, line 2"),
        ("divide", "ZeroDivisionError at divide.txt, line 3"),
        ("deep", "template deep.txt: ZeroDivisionError at divide.txt, line 3"),
        ("lacks", "it uses nowhere.txt"),
        ("endless", "more than 10000 characters"),
        ("recursion", "RecursionError"),
    ],
)
def test_what_a_template_does_wrong_is_placed_and_not_quoted(directory: Path, name: str, place: str) -> None:
    """The sandbox holds, output is bounded, and the error has template and line but no value."""
    value = "ann".title()  # not in this file's lines, which a traceback shows
    with pytest.raises(PermanentError) as failed:
        rendered(directory, name, name=value, items=[value])
    assert place in str(failed.value)
    assert value not in "".join(traceback.format_exception(failed.value))
