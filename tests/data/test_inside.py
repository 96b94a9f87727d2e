from pathlib import Path

import pytest

from mbv2kit.data.inside import PathOptions, leads_outside
from mbv2kit.errors import UserError


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a/../b.jpg", "./a.jpg", "..a.jpg", "a/..b/c..jpg", "a:b"])
def test_names_below_the_folder_are_taken(name: str) -> None:
    assert not leads_outside(name)
    PathOptions().check(name, Path("list.txt"))


@pytest.mark.parametrize("name", ["/a.jpg", "../a.jpg", "a/../../b.jpg", "..", "C:/a.jpg", "C:\\a.jpg", "//host/a/b"])
def test_names_that_lead_out_are_refused_unless_the_user_trusts_them(name: str) -> None:
    assert leads_outside(name)
    with pytest.raises(UserError, match=r"^list\.txt: the file name '.+' leads out of the data set"):
        PathOptions().check(name, Path("list.txt"))
    PathOptions(follow_outside=True).check(name, Path("list.txt"))
