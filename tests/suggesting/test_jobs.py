"""Everyday repairs in one command: each is solved whole, and no value lands where it does not belong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import ckptdiff
from tests.suggesting.jobs import JOBS


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_solved_whole(name: str, tmp_path: Path) -> None:
    job = JOBS[name]
    trained = job.trained()
    torch.save(job.change(trained), tmp_path / "old.pth")
    for likely in dict.fromkeys((False, job.likely)):
        fixed = ckptdiff.fix(
            job.network(),
            tmp_path / "old.pth",
            tmp_path / "new.pth",
            include_likely=likely,
            heads=job.heads,
            force=True,
        )
        made = torch.load(tmp_path / "new.pth")
        assert [key for key, value in made.items() if not torch.equal(value, trained[key])] == []
    assert [key for key in trained.keys() - made.keys() if not re.search(job.stays, key)] == []
    assert fixed.whole
    assert set(fixed.stays) == trained.keys() - made.keys()
    missing = job.network().load_state_dict(made, strict=False).missing_keys
    assert set(missing) == set(fixed.stays)


def test_the_corpus_is_as_large_as_it_is_said_to_be() -> None:
    assert len(JOBS) >= 80
