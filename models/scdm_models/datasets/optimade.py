"""Reads structures of databases that answer as OPTIMADE asks, page by page over the network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from scdm_models.datasets.entries import read_entry
from scdm_models.datasets.records import Dropped
from scdm_models.datasets.structure_files import Item
from scdm_models.errors import DatasetError

if TYPE_CHECKING:
    import requests

INCOMPLETE = "incomplete"  # rule of the ``Dropped`` that stands for what a provider did not give
WEB = ("http://", "https://")
PAGE_ENTRIES = 100  # what every provider grants that says so; it may give fewer
MAX_PAGES = 5000
TRIES_AGAIN = 3  # of one request, with a wait of 0, 1 and 2 s before
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect; until the next bytes come
_VERSION = re.compile(r"(/v\d+(\.\d+)*)?(/structures)?/*$")  # what may follow the base URL
_LOGIN = re.compile(r"(?<=://)[^/@]*@")


def read_optimade(base_url: str, query: str = "", limit: int | None = None) -> Iterator[Item]:
    """Structures of a database that answers as OPTIMADE asks (doi:10.1038/s41597-021-00974-z), page by page.

    A provider that fails after its first page, or whose pages have no end, ends the reading: the last item is then a
    ``Dropped`` of the rule ``INCOMPLETE`` that says why.

    Parameters
    ----------
    base_url
        Of one database, such as ``https://optimade.materialsproject.org``.
    query
        Filter in OPTIMADE's language; all structures without.
    limit
        Largest number of entries; all without.

    Raises
    ------
    DatasetError
        If the first page cannot be had.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    source, read = urlsplit(base_url).hostname or base_url, 0
    url = f"{_VERSION.sub('', base_url)}/v1/structures"
    parameters: dict[str, Any] = {"page_limit": min(limit or PAGE_ENTRIES, PAGE_ENTRIES)}
    parameters |= {"filter": query} if query else {}
    asked: set[str] = set()
    seen: set[str] = set()
    again = Retry(
        TRIES_AGAIN,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    with requests.Session() as session:
        for scheme in WEB:
            session.mount(scheme, HTTPAdapter(max_retries=again))
        for number in range(1, MAX_PAGES + 1):
            asked.add(url)
            try:
                entries, following, more = _page(session, url, parameters)
            except DatasetError as error:
                if number == 1:
                    raise
                yield _incomplete(source, number, str(error))
                return
            ids = [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
            if following and seen.issuperset(ids) and len(ids) == len(entries):
                yield _incomplete(source, number, "the page holds nothing new and names one that follows all the same")
                return
            seen.update(ids)
            for entry in entries:
                if read == limit:
                    return
                read += 1
                yield read_entry(entry, f"{source}:{read}", source)
            if read == limit or not (following or more):
                return
            if not following:
                yield _incomplete(source, number, "it says that there is more and names no page that follows")
                return
            if following in asked:
                yield _incomplete(source, number, "it names a page as the following one that was read already")
                return
            url, parameters = following, {}
    yield _incomplete(source, MAX_PAGES, "no more pages are read")


def _incomplete(source: str, number: int, reason: str) -> Dropped:
    advice = "what came before is kept; try again later, or ask for less with a filter"
    return Dropped(f"{source}:page {number}", source, INCOMPLETE, f"page {number}: {reason}; {advice}")


def _page(session: requests.Session, url: str, parameters: dict[str, Any]) -> tuple[list[Any], str | None, bool]:
    """Entries of a page of OPTIMADE, the address of the following one, and whether there are more entries.

    Raises
    ------
    DatasetError
        If the provider cannot be reached, answers with an error or with something else.
    """
    from requests import RequestException

    shown = _LOGIN.sub("", url)
    try:
        answer = session.get(url, params=parameters, timeout=TIMEOUT_SECONDS)
    except RequestException as error:
        raise DatasetError(f"{shown} cannot be reached ({type(error).__name__}); check address and network") from None
    try:
        document = answer.json()
    except ValueError:
        document = None
    said = ""
    if isinstance(document, dict) and isinstance(document.get("errors"), list):
        said = "; ".join(str(e.get("detail") or e.get("title")) for e in document["errors"] if isinstance(e, dict))
    if answer.status_code != 200 or said:
        text = said[:200] or answer.reason
        raise DatasetError(
            f"{shown} answers with an error (HTTP {answer.status_code}: {text}); check address and filter"
        )
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        kind = "JSON without a list 'data'" if document is not None else answer.headers.get("Content-Type", "no JSON")
        raise DatasetError(
            f"{shown} answers with {kind}, which is no page of OPTIMADE; give the base URL of a database such as "
            "https://optimade.materialsproject.org"
        )
    links = document.get("links")
    following = links.get("next") if isinstance(links, dict) else None
    if isinstance(following, dict):
        following = following.get("href")
    following = urljoin(answer.url, following) if isinstance(following, str) and following else None
    meta = document.get("meta")
    return document["data"], following, isinstance(meta, dict) and meta.get("more_data_available") is True
