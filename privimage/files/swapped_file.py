"""A small file that changes by compare-and-swap: the ledger's, so that no charge is ever lost.

`swap(old, new)` makes `new` the content if it is `old`, on the disk when it returns; otherwise it
raises RunFolderError. No lock is trusted for this: a lock file can be removed, and on some network
file systems locks are local. The steps of a swap:

1. `new` is written to a file of a random name beside the target and flushed: the proposal.
2. A symbolic link `.NAME.after-HASH`, HASH being that of `old`, is made to the proposal: the claim.
   Making a link is atomic and fails if the name exists, so each content has one successor.
3. If the file still holds `old`, the proposal is renamed to it, and the folder is flushed.
4. The claim is removed.

**Why nothing is lost.** A content never comes back (charges only grow) unless somebody restores it.
A claim is removed only once the file has moved past its content. So a process that makes a claim
after that and then looks at the file sees a later content and gives up; one that still sees the old
content is alone. A proposal is renamed once in its life, for then its name is gone: no late rename
puts an older content over a newer one.

- A crash before the claim leaves a stray file that nobody reads. One between claim and rename
  leaves a claim: the next to open completes the rename, and a charge that never returned counts as
  spent. One after the rename leaves an old claim, which the next to open removes.
- Two at once, with the lock removed, replaced by another file, or never shared: one of them makes
  the claim, the other ends in the error, and so does everyone who holds an older content.
- The file restored from an older copy, replaced or deleted while a process runs: its next swap
  finds another content than its last, and ends in the error; nothing is written over the file.

Not covered: an older copy that is restored while nobody has the file open, or the same by hand
while several have. It takes a file system that keeps symbolic links and shows a rename to whoever
opens the file next, as local ones and NFS do.
"""

import hashlib
import os
from pathlib import Path

from privimage.errors import RunFolderError
from privimage.files.durable import flush_folder, writing, written_beside


class SwappedFile:
    """One file, changed by `swap` alone; its content, None while there is no file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def settle(self) -> bytes | None:
        """The content, after what a crash left of a swap is completed or cleared away."""
        # listed before the content is read: what is not on that content is then of the past
        claims = list(self.path.parent.glob(f".{self.path.name}.after-*"))
        content = self._content()
        while (proposal := self._proposal(self._claim(content))) is not None:
            self._complete(content, proposal)
            content = self._content()
        for claim in claims:
            if content is None:
                raise self._is_gone()
            if (proposal := self._proposal(claim)) is not None:
                claim.unlink(missing_ok=True)
                proposal.unlink(missing_ok=True)
        return content

    def swap(self, old: bytes | None, new: bytes) -> None:
        """Make `new` the content, durably; RunFolderError if it is not `old` any more."""
        claim = self._claim(old)
        with written_beside(self.path) as (file, proposal):
            file.write(new)
        try:
            self._expect(old)
            self._make(claim, proposal)
            self._expect(old)
            self._rename(proposal)
        except BaseException:
            if not _leads_to(claim, proposal):  # else it is claimed, and counts as spent
                proposal.unlink(missing_ok=True)
            raise
        flush_folder(self.path.parent)
        claim.unlink(missing_ok=True)

    def _content(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunFolderError(
                f"cannot read {self.path} ({error.strerror}); make it readable for this user"
            ) from error

    def _claim(self, content: bytes | None) -> Path:
        name = "nothing" if content is None else hashlib.sha256(content).hexdigest()[:32]
        return self.path.with_name(f".{self.path.name}.after-{name}")

    def _proposal(self, claim: Path) -> Path | None:
        """What the claim leads to; None if there is no claim."""
        try:
            name = os.readlink(claim)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunFolderError(
                f"{claim} is not a link; remove it and repeat the command"
            ) from error
        if "/" in name or not name.startswith(f".{self.path.name}."):
            raise RunFolderError(f"{claim} leads to {name!r}; remove it and repeat the command")
        return self.path.with_name(name)

    def _complete(self, content: bytes | None, proposal: Path) -> None:
        claim = self._claim(content)
        try:
            os.replace(proposal, self.path)
        except FileNotFoundError as error:  # completed by who made it, unless the claim stays
            if self._content() == content and claim.is_symlink():
                raise RunFolderError(
                    f"{claim} leads to a charge that is not there; if no other process uses the "
                    "folder, remove it and repeat the command"
                ) from error
            return
        except OSError as error:
            raise RunFolderError(
                f"cannot write {self.path} ({error.strerror}); make the folder writable"
            ) from error
        flush_folder(self.path.parent)
        claim.unlink(missing_ok=True)

    def _make(self, claim: Path, proposal: Path) -> None:
        try:
            os.symlink(proposal.name, claim)
        except FileExistsError as error:
            if not _leads_to(claim, proposal):  # NFS may say so of what it has just made
                raise self._is_anothers() from error
        except OSError as error:
            raise RunFolderError(
                f"cannot make a symbolic link in {claim.parent} ({error.strerror}), which keeps "
                "two processes from spending one budget twice; free some space, or use a run "
                "folder on a file system that has such links"
            ) from error

    def _rename(self, proposal: Path) -> None:
        with writing(self.path):
            try:
                os.replace(proposal, self.path)
            except FileNotFoundError as error:  # one that opened the file was faster
                raise self._is_anothers() from error

    def _expect(self, old: bytes | None) -> None:
        content = self._content()
        if content is None and old is not None:
            raise self._is_gone()
        if content != old:
            raise self._is_anothers()

    def _is_anothers(self) -> RunFolderError:
        return RunFolderError(
            f"{self.path} is not as this process left it: another process uses it, or it was "
            "replaced by another copy; let one process at a time use the folder, put the newest "
            "copy back if it was replaced, and repeat the command"
        )

    def _is_gone(self) -> RunFolderError:
        return RunFolderError(
            f"{self.path} is gone, and with it the account of what was spent; restore the newest "
            "copy, or count its whole promise as spent and use a new run folder"
        )


def _leads_to(claim: Path, proposal: Path) -> bool:
    try:
        return os.readlink(claim) == proposal.name
    except OSError:
        return False
