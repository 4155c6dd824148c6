"""Two real processes that would not make one run: both end with one line, and train nothing."""

from pathlib import Path

from tests.train.processes import ends_of, free_port
from tests.train.small_runs import start, write_data


def lines(
    program_folder: Path, workdirs: list[Path], cwds: list[Path], **changes: str
) -> list[str]:
    """What both say before they end with exit code 2."""
    flags = [f"--coordinator_address=localhost:{free_port()}", "--num_processes=2"]
    flags += ["--config.mesh.data=2", "--config.mesh.fsdp=1"]
    where = {"devices": 1, "compiled": program_folder}
    ends = ends_of(
        [
            start(workdir, *flags, f"--process_id={i}", cwd=cwd, **where, **changes)
            for i, (workdir, cwd) in enumerate(zip(workdirs, cwds, strict=True))
        ],
        seconds=200,
    )
    for code, output in ends:
        assert code == 2, output
        assert "Traceback" not in output
    return [output for _, output in ends]


def test_hosts_without_a_shared_folder(program_folder, data, tmp_path):
    """Found before the model is looked for."""
    hosts = [tmp_path / "host_0", tmp_path / "host_1"]
    for host in hosts:
        host.mkdir()
    outputs = lines(program_folder, [Path("run")] * 2, hosts, model="nowhere", data=data)
    for output in outputs:
        assert "process 1 does not see what process 0 writes to run" in output
        assert "nowhere" not in output
    assert list(tmp_path.glob("host_*/*")) == []


def test_data_on_one_host_only(program_folder, model, tmp_path):
    """The host that has them does not wait for the other."""
    hosts = [tmp_path / "host_0", tmp_path / "host_1"]
    for host in hosts:
        host.mkdir()
    write_data(hosts[0] / "data.jsonl")
    has, lacks = lines(
        program_folder, [tmp_path / "run"] * 2, hosts, model=model, data="data.jsonl"
    )
    assert "process 1 cannot start: see what it says" in has
    assert "cannot read data.jsonl: there is no such file" in lacks
    assert not (tmp_path / "run").exists()


def test_hosts_with_different_data_under_one_name(program_folder, model, tmp_path):
    hosts = [tmp_path / "host_0", tmp_path / "host_1"]
    for host, number in zip(hosts, (40, 39), strict=True):
        host.mkdir()
        write_data(host / "data.jsonl", rows=number)
    outputs = lines(program_folder, [tmp_path / "run"] * 2, hosts, model=model, data="data.jsonl")
    for output in outputs:
        assert "processes 0 and 1 differ in content of data" in output
    assert not (tmp_path / "run" / "checkpoints").exists()
