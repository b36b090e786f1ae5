"""`lwc push`: the published model of a run, with its card, to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from lwc.core.errors import MissingDependency, RecipeError
from lwc.core.progress import Say
from lwc.pipeline.publish import MODEL
from lwc.report.reading import read_report


def push(run: Path, repo_id: str, private: bool, endpoint: str | None, say: Say) -> str:
    """Upload ``run``'s model folder as one repository, which is made if it is not there; returns its address.

    Args:
        run: the folder of a finished run.
        repo_id: ``NAME`` or ``USER_OR_ORGANISATION/NAME``.
        private: make the repository private; one that is there already must be.
        endpoint: address of the hub; by default that of ``HF_ENDPOINT``.
        say: called with what is done.

    Raises:
        RecipeError: ``run`` has no report or model, there is no token, or the hub refuses.
        MissingDependency: the hub cannot be reached.
    """
    report, folder = read_report(run), run / MODEL
    if not (folder / "config.json").is_file() or not (folder / "README.md").is_file():
        raise RecipeError(
            f"{run}: no {MODEL} folder with a model card in it", "run its recipe again: finished stages are reused"
        )
    if not report["verdict"]["passed"]:
        say("warning: this run did not pass its gates; the model card says so")
    with _one_error(repo_id, folder):
        from huggingface_hub import HfApi, get_token

        token = get_token()
        if token is None:
            raise RecipeError("no Hugging Face token", "run `hf auth login`, or set HF_TOKEN")
        hub = HfApi(endpoint=endpoint, token=token, library_name="lwc")
        made = hub.create_repo(repo_id, private=private or None, exist_ok=True)
        # The hub leaves the visibility of an existing repository as it is.
        if private and not hub.model_info(made.repo_id).private:
            raise RecipeError(f"{made.repo_id} exists and is public", "make it private on the hub, or name another one")
        say(f"uploading {folder} to {made.repo_id}")
        hub.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=f"lwc: {run.resolve().name}")
    return str(made)


@contextmanager
def _one_error(repo_id: str, folder: Path) -> Iterator[None]:
    """Turn the library's errors into one of lwc."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # The base of the library's HTTP client, which differs between its versions.
    unreachable = cast(type[Exception], HfHubHTTPError.__mro__[1])
    try:
        yield
    except HFValidationError as error:
        raise RecipeError(f"{repo_id}: {_first_line(error)}", "name it USER/NAME") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500:
            raise MissingDependency(f"the hub answered {status}: {_first_line(error)}", "try again later") from error
        hint = "check that the token may write there (`hf auth whoami`), and the name"
        raise RecipeError(f"the hub refused {repo_id} ({status}): {_first_line(error)}", hint) from error
    except (OfflineModeIsEnabled, ConnectionError, unreachable) as error:
        raise MissingDependency(
            f"the hub cannot be reached: {_first_line(error)}",
            f"unset HF_HUB_OFFLINE if it is set, or copy the run to a machine that can: hf upload {repo_id} {folder} .",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
