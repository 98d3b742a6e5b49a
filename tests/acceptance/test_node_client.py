"""The official openai client for Node: a streamed chat."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.conftest import World

pytestmark = [pytest.mark.node, pytest.mark.ray, pytest.mark.slow]

SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: process.argv[3], maxRetries: 0 });
const messages = [{ role: "user", content: "Count to three." }];
const { data, response } = await client.chat.completions
  .create({ model: "llama-3.1-8b", messages, max_tokens: 8, stream: true, stream_options: { include_usage: true } })
  .withResponse();
const said = { words: [], usage: null, tier: response.headers.get("x-logos-tier") };
for await (const chunk of data) {
  const word = chunk.choices[0]?.delta?.content;
  if (word) said.words.push(word);
  if (chunk.usage) said.usage = chunk.usage;
}
try {
  await client.chat.completions.create({ model: "no-such-model", messages });
} catch (error) {
  said.error = { name: error.constructor.name, status: error.status, code: error.code };
}
console.log(JSON.stringify(said));
"""


@pytest.fixture(scope="session")
def openai_for_node(request: pytest.FixtureRequest) -> Path:
    """A directory in which Node finds the package; kept between runs."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    assert request.config.cache is not None
    directory = Path(request.config.cache.mkdir("openai-for-node"))
    if not (directory / "node_modules" / "openai" / "package.json").exists():
        command = [
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
            str(directory),
            "openai@6",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            pytest.skip(f"npm cannot install openai: {done.stderr.strip().splitlines()[-1:]}")
    (directory / "stream.mjs").write_text(SCRIPT)
    return directory


def test_node_streams_a_chat_and_raises_errors_as_their_class(world: World, openai_for_node: Path) -> None:
    command = ["node", "stream.mjs", f"{world.platform.base_url}/v1", world.key()]
    done = subprocess.run(command, cwd=openai_for_node, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["words"]
    assert said["usage"]["completion_tokens"] >= 1
    assert said["tier"]
    assert said["error"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}
