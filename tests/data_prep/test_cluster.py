"""--executor dask|ray: the same bytes as the processes of this machine make, or one clear error."""

import pytest

from data_prep.pipeline import cluster


@pytest.mark.parametrize(("executor", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_local_cluster_makes_the_same(tmp_path, videos, data_prep, tree, executor, package):
    pytest.importorskip("joblib")
    pytest.importorskip(package, reason=f"pip install 'vidkd[{executor}]' to test --executor {executor}")
    (videos / "jump" / "bad.avi").write_text("#EXTM3U\n")
    words = ["folder", "--root", videos, "--short-side", 32, "--allow-failures", 1]
    assert data_prep(*words, "--out", tmp_path / "here")[0] == 0
    status, said = data_prep(*words, "--out", tmp_path / "there", "--executor", executor, "--workers", 2)
    assert status == 0, said
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    made = {path: path.stat().st_ino for path in (tmp_path / "there").rglob("*.mp4")}
    assert data_prep(*words, "--out", tmp_path / "there", "--executor", executor, "--workers", 1)[0] == 0
    assert len(made) == 6 and made == {path: path.stat().st_ino for path in made}


def test_without_the_package(tmp_path, videos, data_prep, monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    status, said = data_prep("folder", "--root", videos, "--out", tmp_path / "out", "--executor", "ray")
    assert status == 2 and "pip install 'vidkd[ray]'" in said and "Traceback" not in said


def test_a_cluster_that_does_not_start(tmp_path, videos, data_prep, monkeypatch):
    def overloaded(workers: int):
        raise RuntimeError("The current node timed out during startup.\nMore lines.")

    pytest.importorskip("joblib")
    monkeypatch.setattr(cluster, "find_spec", lambda name: True)
    monkeypatch.setattr(cluster, "_ray", overloaded)
    status, said = data_prep("folder", "--root", videos, "--out", tmp_path / "out", "--executor", "ray")
    assert status == 2 and "error: --executor ray: The current node timed out during startup.; the same" in said
    assert "Traceback" not in said and "More lines" not in said
