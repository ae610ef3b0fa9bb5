"""Pictures and clips from the web: polite, bounded, and only from addresses that may be reached.

A host is resolved once for a connection, and the connection goes to the address that was checked, whatever the host's name
means a moment later; so it is after each redirection, which is a request of its own. There is no proxy, and nothing is
unpacked: what a picture is, its bytes say.
"""

import asyncio
import base64
import hashlib
import random
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import responses
from tempfile import SpooledTemporaryFile
from time import monotonic
from typing import TYPE_CHECKING, Any

from weibotag.core import __version__
from weibotag.core.progress import Bar, bar
from weibotag.vision.media.fetched import Fetched, FetchedFolder, Status, name_address
from weibotag.vision.media.formats import HEAD_BYTES, explain_other, find_clip, is_media, name_kind
from weibotag.vision.media.manners import WebSettings
from weibotag.vision.media.pictures import MediaLimits, too_large

if TYPE_CHECKING:
    from httpcore2 import AsyncConnectionPool, AsyncNetworkStream, Response
    from httpx2 import URL

# Requests at once to all hosts, redirections of a picture, and seconds for a connection to one of a host's addresses.
AT_ONCE, MOST_REDIRECTS, CONNECT_SECONDS = 16, 5, 10.0
# Seconds before another try, doubled each time, where the host doesn't say; faults in a row after which it is left alone.
BACKOFF, MOST_FAULTS = 1.0, 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Another try may help; another run; and another may once a header is set or the host has changed its mind.
TRANSIENT, LOCKED = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}), frozenset({401, 403})
# Bytes that are held in memory before they go to a file, seconds that an idle connection is kept, characters of a reason.
HELD, KEPT_SECONDS, LONGEST = 1 << 20, 15.0, 200


class Fault(Exception):
    """Why an address gives no picture: `refused`, `failed` until the next run, or (`again`) until the next try.

    `blame`: it is the host's fault, as what is worth another try always is.
    """

    def __init__(self, reason: str, status: Status = "refused", *, again: bool = False, blame: bool = False) -> None:
        super().__init__(reason)
        self.status: Status = "failed" if again or blame else status
        self.again, self.blame = again, again or blame


def fetch_pictures(
    names: Iterable[str],
    folder: FetchedFolder,
    web: WebSettings,
    limits: MediaLimits,
    *,
    quiet: bool = False,
    is_late: Callable[[], bool] = lambda: False,
) -> dict[str, Fetched]:
    """Fetch what the web addresses among `names` give and the folder lacks; return what came of each, by address.

    Files are bounded by `limits`. Once `is_late`, none is begun.
    """
    found = {one.url: (one, name) for name in names if (one := folder.find(name))}
    mark = web.mark(limits)
    wanted = [(one.settings != "", url, name) for url, (one, name) in found.items() if not folder.is_settled(one, mark)]
    if wanted:
        # Those that failed before come last, so that none waits for them for ever.
        queues: dict[str, list[str]] = {}
        for _, url, name in sorted(wanted, key=lambda one: one[0]):
            queues.setdefault(url.split("/")[2], []).append(name)
        with bar(len(wanted), "fetching pictures", quiet) as progress:
            _run(lambda: _Work(folder, web, limits, is_late, progress).run(queues.values()))
    return {url: one for url, (_, name) in found.items() if (one := folder.find(name))}


def _run(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a coroutine to its end, in a thread where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(work())).result()


class _Host:
    """Turns at one host."""

    def __init__(self, name: str, web: WebSettings, closed: dict[str, str]) -> None:
        self.name, self.web, self.closed = name, web, closed
        self.slots = asyncio.Semaphore(web.per_host)
        self.next, self.faults = 0.0, 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn; raises Fault for a host that was given up, and gives it up after too many faults in a row."""
        async with self.slots:
            while (wait := self.next - monotonic()) > 0 and self.name not in self.closed:
                await asyncio.sleep(wait)
            if self.name in self.closed:
                raise Fault(self.closed[self.name], "failed")
            self.next = monotonic() + self.web.delay
            try:
                yield
            except Fault as fault:
                self.faults = self.faults + 1 if fault.blame else 0
                if self.faults >= MOST_FAULTS:
                    self.closed[self.name] = f"its host was given up after {MOST_FAULTS} faults in a row: {fault}"
                raise
            self.faults = 0

    def pause(self, seconds: float) -> None:
        """Leave the host alone for so long, or, where that is too long to wait, for good."""
        self.next = max(self.next, monotonic() + min(seconds, self.web.patience))
        if seconds > self.web.patience:
            self.closed[self.name] = f"its host asks to be left alone for {seconds:,.0f} s"


class _Work:
    """The fetching of some pictures, in one event loop."""

    def __init__(
        self, folder: FetchedFolder, web: WebSettings, limits: MediaLimits, is_late: Callable[[], bool], progress: Bar
    ) -> None:
        self.folder, self.web, self.limits, self.is_late, self.progress = folder, web, limits, is_late, progress
        self.mark = web.mark(limits)
        self.hosts: dict[str, _Host] = {}
        self.slots = asyncio.Semaphore(AT_ONCE)

    async def run(self, queues: Iterable[Sequence[str]]) -> None:
        """Fetch the addresses in each queue, all queues at once."""
        async with open_pool(self.web) as self.pool:
            shared = [(iter(queue), min(len(queue), self.web.per_host)) for queue in queues]
            await asyncio.gather(*(self._take(queue) for queue, workers in shared for _ in range(workers)))

    async def _take(self, queue: Iterator[str]) -> None:
        for name in queue:
            if self.is_late():
                return
            self.folder.note(await self._fetch(name))
            self.progress.advance()

    async def _fetch(self, name: str) -> Fetched:
        """Return what comes of an address after as many tries as may help."""
        url = name_address(name)
        for attempt in range(1, self.web.tries + 1):
            try:
                return Fetched(url, await self._follow(name), "ok", None, self.mark)
            except Fault as fault:
                if not fault.again or attempt == self.web.tries:
                    return Fetched(url, None, fault.status, str(fault), self.mark)
            await asyncio.sleep(BACKOFF * 2 ** (attempt - 1) * random.uniform(0.5, 1))
        raise AssertionError(url)

    async def _follow(self, name: str) -> str:
        """Return the file of an address, redirections followed; what it says of a user is told to its own host alone."""
        address, left = read_address(name), self.web.seconds
        user = f"{address.username}:{address.password}" if address.userinfo else ""
        for _ in range(MOST_REDIRECTS + 1):
            host = self.hosts.setdefault(address.host, _Host(address.host, self.web, self.folder.closed))
            async with host.turn(), self.slots:
                begun = monotonic()
                answer = await self._visit(address, host, user, left)
                left -= monotonic() - begun
            if isinstance(answer, str):
                return answer
            address, user = answer, ""
        raise Fault(f"redirected more than {MOST_REDIRECTS} times")

    async def _visit(self, address: "URL", host: _Host, user: str, seconds: float) -> "str | URL":
        """Return the file that an address gives, or the address that it leads to; raises Fault for all else."""
        import httpcore2

        own = {"user-agent": f"weibotag/{__version__}", "accept": "image/*,video/*;q=0.9,*/*;q=0.1"}
        own |= self.web.headers_for(address.host) | {"host": address.netloc.decode(), "accept-encoding": "identity"}
        if user:
            own["authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        place = httpcore2.URL(scheme=address.raw_scheme, host=address.raw_host, port=address.port, target=address.raw_path)
        wait = {"timeout": {"connect": CONNECT_SECONDS}}
        try:
            async with (
                asyncio.timeout(seconds),
                self.pool.stream("GET", place, headers=[*own.items()], extensions=wait) as answer,
            ):
                told = {name.lower().decode(): value.decode(errors="replace") for name, value in answer.headers}
                if answer.status in REDIRECTS and "location" in told:
                    return read_address(told["location"], address)
                if answer.status != 200:
                    raise self._refusal(answer.status, told, host)
                return await self._receive(answer, told)
        except TimeoutError as error:
            raise Fault(f"not there after {self.web.seconds:g} s", blame=True) from error
        except httpcore2.TimeoutException as error:
            raise Fault("no answer in time", again=True) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise Fault(shorten(error), again=True) from error

    def _refusal(self, status: int, told: Mapping[str, str], host: _Host) -> Fault:
        """Return the fault of an answer that is neither a file nor leads to one; a host that asks for time is given it."""
        reason = f"HTTP {status} {responses.get(status, '')}".strip()
        if status in LOCKED:
            return Fault(f"{reason}; many hosts want a Referer: weibotag fetch --header 'HOST Referer: …'", "failed")
        if status not in TRANSIENT:
            return Fault(reason)
        if (seconds := read_wait(told.get("retry-after", ""))) is not None:
            host.pause(seconds)
        return Fault(reason, again=True)

    async def _receive(self, answer: "Response", told: Mapping[str, str]) -> str:
        """Return the file of an answer's body; raises Fault for one that is too large, or no picture by its bytes."""
        packed = told.get("content-encoding", "identity").strip().lower()
        if packed not in ("", "identity"):
            raise Fault(f"packed by its host ({shorten(packed)}), which nobody asked for")
        most, length = max(self.limits.max_bytes, self.limits.max_clip_bytes), told.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > most:
            raise Fault(too_large(int(length[:20]), most))
        head, size, digest = b"", 0, hashlib.sha256()
        with SpooledTemporaryFile(HELD, dir=str(self.folder.folder)) as file:
            async for chunk in answer.aiter_stream():
                head, size = head if len(head) == HEAD_BYTES else (head + chunk)[:HEAD_BYTES], size + len(chunk)
                if len(head) == HEAD_BYTES:
                    most = self._limit(head)
                if size > most:
                    break
                digest.update(chunk)
                file.write(chunk)
            most = self._limit(head)
            if size > most:
                raise Fault(f"too large: more than {most:,} bytes")
            return await asyncio.to_thread(self.folder.keep, file, digest.hexdigest(), name_kind(head) or "")

    def _limit(self, head: bytes) -> int:
        """Return how many bytes a file may have by its first ones; raises Fault where it is no picture or clip."""
        if not is_media(head):
            raise Fault(explain_other(head[:2048]))
        return self.limits.max_bytes if find_clip(head) is None else self.limits.max_clip_bytes


def open_pool(web: WebSettings) -> "AsyncConnectionPool":
    """Return connections that lead only to addresses that may be reached."""
    import httpcore2

    class Checked(httpcore2.AnyIOBackend):
        async def connect_tcp(self, host: str, port: int, *words: Any, **named: Any) -> "AsyncNetworkStream":
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except UnicodeError as error:
                raise Fault(f"no web address that can be read: {shorten(error)}") from error
            except OSError as error:
                raise httpcore2.ConnectError(f"no address of its host is known: {shorten(error)}") from error
            # As they stand: a name would be resolved again, and might be another's by then.
            addresses = [one for one in dict.fromkeys(str(info[4][0]) for info in found) if web.may_reach(one)]
            if not addresses:
                raise Fault("not fetched: its host has no public address (weibotag fetch --allow-network NETWORK)")
            for address in addresses[:-1]:
                with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                    return await super().connect_tcp(address, port, *words, **named)
            return await super().connect_tcp(addresses[-1], port, *words, **named)

    return httpcore2.AsyncConnectionPool(
        ssl_context=httpcore2.default_ssl_context(),
        max_connections=AT_ONCE,
        keepalive_expiry=KEPT_SECONDS,
        network_backend=Checked(),
    )


def read_address(text: str, base: "URL | None" = None) -> "URL":
    """Return a web address, or one that leads on from `base`; raises Fault for what is none, or of another scheme."""
    import httpx2

    try:
        address = httpx2.URL(text) if base is None else base.join(text)
    except (httpx2.InvalidURL, ValueError) as error:
        raise Fault(f"no web address that can be read: {shorten(error)}") from error
    if address.scheme not in ("http", "https"):
        raise Fault(f"leads to {shorten(address.scheme) or 'nowhere'}: only http and https are fetched")
    if not address.raw_host or not 0 < (address.port or 1) < 1 << 16:
        raise Fault("no web address that can be read: no host, or a port that there is not")
    return address


def read_wait(text: str) -> float | None:
    """Return the seconds that Retry-After asks for, as a number or a date; None where it says neither."""
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def shorten(what: object) -> str:
    """Return in one short line what another says, or the name of an error that says nothing."""
    return " ".join(str(what).split())[:LONGEST] or (type(what).__name__ if isinstance(what, Exception) else "")
