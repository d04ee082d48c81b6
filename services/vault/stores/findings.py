"""What a check of a store says: one finding a check, each a claim in Chinese and whether it held."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """`slug` for programs, `claim` for people; `seen` is what the store did instead, empty where it held."""

    slug: str
    claim: str
    seen: str = ""

    @property
    def held(self) -> bool:
        return not self.seen

    def line(self) -> str:
        return f"✓ {self.claim}" if self.held else f"✗ {self.claim}：{self.seen}"


@dataclass
class Findings:
    """Findings in the order they were made; `say` returns whether the claim held."""

    found: list[Finding] = field(default_factory=list)

    @property
    def all_held(self) -> bool:
        return all(finding.held for finding in self.found)

    def say(self, slug: str, claim: str, seen: str = "") -> bool:
        self.found.append(Finding(slug, claim, seen))
        return not seen
