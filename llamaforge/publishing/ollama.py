"""Publishing to Ollama: tried under a name of its own, then put under the name asked.

The name that was asked for goes from its old content to the new in one call of the server, and
only after the same layers have loaded and answered under the trial's name. Whatever fails or
dies before that call leaves the name as it was; repeating the call completes what was begun.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.names import ModelName, parse_name
from llamaforge.catalog.ollama_server import Layers, LostAnswerError, ServerRefusedError
from llamaforge.errors import LlamaForgeError, NotFoundError, RefusedError
from llamaforge.publishing.journal import Change, Journal, read_journal
from llamaforge.publishing.request import (
    TRIAL_TAG,
    Companion,
    Plan,
    PublishRequest,
    PublishResult,
    checked_plan,
    stacked,
)
from llamaforge.publishing.server import Limits, Progress, PublishingServer
from llamaforge.publishing.versions import ServerVersion, require_adapters
from llamaforge.safe_text import safe_line

_LIMITS: Final = Limits()


def publish(
    request: PublishRequest,
    *,
    journal: Path,
    on_progress: Progress,
    limits: Limits = _LIMITS,
) -> PublishResult:
    """Make the model `request.name` on the server, and prove that it answers there.

    Called again after it was interrupted, it completes what its journal says was begun.

    Raises:
        UsageError: a name or the server's address is not valid.
        RefusedError: it must not or cannot be done; `no_server` where nothing listens.
        NotFoundError: the server does not have the base, or the adapter file is gone.
        LlamaForgeError: the server failed; the name still has what it had before.
    """
    plan = checked_plan(request)
    with PublishingServer(plan.host, limits) as server:
        return _Publication(plan, server, journal, on_progress).run()


def require_free_name(request: PublishRequest, *, journal: Path, limits: Limits = _LIMITS) -> None:
    """Return if nothing is known by now that would refuse the publication at its end.

    It is for requests whose file still has to be written: `request` names the adapter.

    Raises:
        UsageError, RefusedError, NotFoundError, LlamaForgeError: as `publish`.
    """
    plan = checked_plan(request)
    with PublishingServer(plan.host, limits) as server:
        server.version()
        # The file that an earlier attempt published can only be told when it is there again.
        begun = any(_is_intent(entry, plan) for entry in read_journal(journal))
        if not request.overwrite and not begun and server.digest_of(plan.name) is not None:
            raise _taken(plan.name)


def _is_intent(entry: dict[str, Any], plan: Plan) -> bool:
    """Return whether a line of the journal says that something was to get the plan's name."""
    return (
        entry.get("change") == "publish"
        and entry["phase"] == "intent"
        and entry.get("server") == plan.host.url
        and entry.get("model") == plan.name.full
    )


def _taken(name: ModelName) -> RefusedError:
    return RefusedError(
        f"There is already a model {name} on the server.",
        "Choose another name, or add --overwrite to replace it.",
        code="name_taken",
    )


class _Publication:
    """The steps of one publication."""

    def __init__(
        self, plan: Plan, server: PublishingServer, journal: Path, on_progress: Progress
    ) -> None:
        self._plan = plan
        self._server = server
        self._earlier: list[dict[str, Any]] = read_journal(journal)
        self._journal = Journal(journal)
        self._on_progress = on_progress
        self._leftover = ""

    def run(self) -> PublishResult:
        plan = self._plan
        version = self._server.version()
        base_checked = None
        if plan.request.form == "adapter":
            require_adapters(version, plan.architecture)
            base_checked = self._require_base()
        self._delete_forgotten_trials()
        now = self._server.digest_of(plan.name)
        begun = self._begun_earlier()
        if now is not None and begun and self._was_made(plan.name, now):
            answer = self._smoke_test(plan.name)
            return self._result(version, now, begun["previous"], base_checked, answer)
        if now is not None and not begun and not plan.request.overwrite:
            raise _taken(plan.name)
        self._upload()
        try:
            trial = self._create("trial", plan.trial, self._server.digest_of(plan.trial))
            answer = self._smoke_test(plan.trial)
            if begun and trial == now:
                # The server wrote the weights anew, and the attempt died before it noted them.
                return self._result(version, trial, begun["previous"], base_checked, answer)
            # Sending and trying it took a while, in which somebody else may have had the name.
            now = self._server.digest_of(plan.name)
            if now is not None and not plan.request.overwrite:
                raise _taken(plan.name)
            digest = self._create("publish", plan.name, now)
        finally:
            self._delete_trial(plan.trial)
        return self._result(version, digest, now, base_checked, answer)

    def _result(
        self,
        version: ServerVersion,
        digest: str,
        previous: str | None,
        base_checked: bool | None,
        answer: str,
    ) -> PublishResult:
        return PublishResult(
            name=self._plan.name.short,
            server=self._plan.host.url,
            version=version.text,
            digest=digest,
            previous_digest=previous,
            base=self._plan.base.short,
            form=self._plan.request.form,
            file_sha256=self._plan.file_digest,
            base_checked=base_checked,
            answer=answer,
            leftover=self._leftover,
            left_out=self._plan.request.left_out + self._lost(),
        )

    def _lost(self) -> tuple[str, ...]:
        """Return what was sent beside the weights and is not in the model: servers differ."""
        request = self._plan.request
        if not (request.projectors or request.drafts):
            return ()
        layers = self._server.layers_of(self._plan.name)
        if layers is None or not layers.weights:
            return ()  # a server that does not tell
        sent = {
            "projector": ({item.sha256 for item in request.projectors}, set(layers.weights)),
            "draft model": ({item.sha256 for item in request.drafts}, set(layers.drafts)),
        }
        return tuple(what for what, (wanted, there) in sent.items() if not wanted <= there)

    def _require_base(self) -> bool:
        """Return whether the server's base is the trained blob: True, or False if it is silent."""
        base, digest = self._plan.base, self._plan.base_digest
        layers = self._server.layers_of(base)
        if layers is None:
            raise NotFoundError(
                f"The server at {safe_line(self._plan.host.url)} has no model {base}.",
                f"Pull it there (ollama pull {base}), or name its server with OLLAMA_HOST.",
                code="base_missing",
            )
        is_ours = self._plan.name == base and self._begun_earlier() and self._is_ours(layers)
        if layers.adapters and not is_ours:
            raise stacked(base)
        if layers.weights and digest not in layers.weights:
            raise RefusedError(
                f"{base} on the server is another file than the one that was trained: it has "
                f"sha256:{layers.weights[0]}, and sha256:{digest} was trained.",
                "Train on the model as it is now, or publish to the server that has the old one.",
                code="other_base",
            )
        return bool(layers.weights)

    def _upload(self) -> None:
        self._upload_file(self._plan.request.file, self._plan.file_digest)
        for item in (*self._plan.request.projectors, *self._plan.request.drafts):
            self._upload_file(item.path, item.sha256)

    def _upload_file(self, path: Path, digest: str) -> None:
        if self._server.has_blob(digest):
            return
        with self._change("upload", digest=digest) as change:
            try:
                self._server.upload(path, digest, self._on_progress)
                change.acted()
            except LostAnswerError as error:
                change.acted(answer=error.code)
            if not self._server.has_blob(digest):
                raise LlamaForgeError(
                    "The server did not keep the file that was sent to it.",
                    "Check the disk space of the server, and try again.",
                    code="upload_lost",
                )
            change.verified(digest=digest)

    def _smoke_test(self, name: ModelName) -> str:
        self._on_progress("load", 0, 0)
        try:
            return self._server.chat(name)
        except ServerRefusedError as error:
            more = (
                "; --as gguf publishes one merged file, which runs where adapters do not."
                if self._plan.request.form == "adapter"
                else "."
            )
            raise LlamaForgeError(
                f"The server made the model but cannot run it: “{error.answer}”.",
                "The name was left as it was. Check that the server has memory for the model and "
                f"look at its log{more}",
                code="smoke_test",
            ) from error

    def _create(self, kind: str, name: ModelName, before: str | None) -> str:
        """Make the model `name`, look whether it arrived, and return its digest."""
        plan = self._plan
        with self._change(kind, model=name.full, previous=before, content=plan.content) as change:
            lost: LostAnswerError | None = None
            try:
                self._server.create(name, _body(plan), self._on_progress)
                change.acted()
            except LostAnswerError as error:
                lost = error
                change.acted(answer=error.code)
            digest = self._arrived(name, before, certain=lost is None)
            if digest is not None:
                change.verified(digest=digest)
                return digest
            if lost is not None:
                raise lost
            raise LlamaForgeError(
                f"The server said that it made {name}, and does not have it.",
                "Look at the server's log, and try again.",
                code="not_there",
            )

    def _arrived(self, name: ModelName, before: str | None, *, certain: bool) -> str | None:
        """Return the digest of `name` if it now is what was asked for.

        The layers decide where the server tells them; else, without a success to rely on
        (`certain`), a digest that is another one than before.
        """
        digest = self._server.digest_of(name)
        if digest is None:
            return None
        layers = self._server.layers_of(name)
        if layers is not None and self._tells(layers):
            return digest if self._is_ours(layers) else None
        return digest if certain or digest != before else None

    def _tells(self, layers: Layers) -> bool:
        """Return whether the server's words about a model decide if it is what was asked for."""
        if self._plan.request.form == "adapter":
            return bool(layers.adapters)
        # The server may write the weights anew when it checks them, so another digest than that
        # of the file proves nothing; the file's own, an adapter or the base's weights do.
        known = {self._plan.file_digest, self._plan.base_digest}
        return bool(layers.adapters) or not known.isdisjoint(layers.weights)

    def _is_ours(self, layers: Layers | None) -> bool:
        """Return whether these are the blobs of what is published."""
        if layers is None:
            return False
        plan = self._plan
        if plan.request.form == "gguf":
            return not layers.adapters and plan.file_digest in layers.weights
        if layers.adapters != (plan.file_digest,):
            return False
        return not layers.weights or plan.base_digest in layers.weights

    def _was_made(self, name: ModelName, digest: str) -> bool:
        """Return whether an earlier attempt made the model that has the name now."""
        verified = {
            entry.get("digest")
            for entry in self._earlier
            if entry.get("change") == "publish" and entry["phase"] == "verify"
        }
        return self._is_ours(self._server.layers_of(name)) or (
            self._plan.request.form == "gguf" and digest in verified
        )

    def _begun_earlier(self) -> dict[str, Any] | None:
        """Return the intent of an earlier attempt to publish the same content under this name."""
        plan = self._plan
        same = [
            entry
            for entry in self._earlier
            if _is_intent(entry, plan) and entry.get("content") == plan.content
        ]
        return same[-1] if same else None

    def _delete_forgotten_trials(self) -> None:
        """Delete trial models of this journal that a killed process left on the server."""
        open_trials: dict[str, ModelName] = {}
        for entry in self._earlier:
            if entry.get("server") != self._plan.host.url:
                continue
            full = str(entry.get("model", ""))
            if entry.get("change") == "trial" and entry["phase"] == "intent":
                open_trials[full] = parse_name(full)
            elif entry.get("change") == "delete_trial" and entry["phase"] == "verify":
                open_trials.pop(full, None)
        for trial in open_trials.values():
            # The tag marks it as ours: nothing else is ever deleted.
            if trial.tag.startswith(TRIAL_TAG):
                self._delete_trial(trial)

    def _delete_trial(self, trial: ModelName) -> None:
        """Delete a trial model; that it cannot be done is noted, and fails nothing."""
        try:
            if self._server.digest_of(trial) is None:
                return
            with self._change("delete_trial", model=trial.full) as change:
                self._server.delete(trial)
                change.acted()
                change.verified(model=trial.full, server=self._plan.host.url)
        except LlamaForgeError:
            self._leftover = trial.short

    def _change(self, kind: str, **facts: Any) -> AbstractContextManager[Change]:
        return self._journal.change(kind, server=self._plan.host.url, **facts)


def _files(what: str, items: Sequence[Companion]) -> dict[str, str]:
    return {f"{what}-{number}.gguf": f"sha256:{item.sha256}" for number, item in enumerate(items)}


def _body(plan: Plan) -> dict[str, Any]:
    """Return what `POST /api/create` is told of the model; what is None is left to the server."""
    request = plan.request
    digest = f"sha256:{plan.file_digest}"
    if request.form == "adapter":
        # What is left out the server takes over from the base.
        source: dict[str, Any] = {"from": plan.base.short, "adapters": {"adapter.gguf": digest}}
    else:
        source = {
            # By these names the server takes them in this order.
            "files": {"model.gguf": digest} | _files("projector", request.projectors),
            "draft_files": _files("draft", request.drafts) or None,
            "requires": request.requires,
            "license": list(request.licenses) or None,
            "renderer": request.renderer,
            "parser": request.parser,
        }
    source |= {
        "template": request.template,
        "system": request.system,
        "parameters": request.parameters,
        "messages": request.messages,
    }
    return {key: value for key, value in source.items() if value is not None}
