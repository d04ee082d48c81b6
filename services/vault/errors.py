"""The vault's errors, one tree; their statuses and Chinese sentences stand in this one table.

`VaultError` is what a caller may be told. Anything else is a 500 whose detail stays here.
"""

from __future__ import annotations

from typing import Any, ClassVar


class VaultError(Exception):
    """Base: `slug` for programs, `title` (Chinese) for people, `extra` joins the problem."""

    status: ClassVar[int] = 400
    slug: ClassVar[str] = "vault-error"
    title: ClassVar[str] = "证据库无法完成此操作。"

    def __init__(self, detail: str | None = None, **extra: Any):
        super().__init__(detail or self.slug)
        self.detail, self.extra = detail, extra


class NotAuthenticated(VaultError):
    status, slug, title = 401, "not-authenticated", "请求没有有效的服务签名。"


class VerbNotAllowed(VaultError):
    status, slug, title = 403, "verb-not-allowed", "此服务无权进行该操作。"


class NoSuchRecording(VaultError):
    status, slug, title = 404, "no-such-recording", "证据库中没有这一音像记录。"


class NoSuchSegment(VaultError):
    status, slug, title = 404, "no-such-segment", "证据库中没有这一片段。"


class NoSuchManifest(VaultError):
    status, slug, title = 404, "no-such-manifest", "该音像记录没有这一份清单。"


class NoSuchStatement(VaultError):
    status, slug, title = 404, "no-such-statement", "日志中没有这一条记录。"


class NotInStore(VaultError):
    status, slug, title = 502, "not-in-store", "存储中已没有登记的这一版本。"


class StillLocked(VaultError):
    status, slug, title = 409, "still-locked", "存储拒绝删除：锁定未到期或处于留存状态。"


class RecordingDisposed(VaultError):
    status, slug, title = 410, "recording-disposed", "该记录已按规定销毁，仅存销毁凭证。"


class NoSuchHold(VaultError):
    status, slug, title = 404, "no-such-hold", "没有这一项复议诉讼留存。"


class HoldDiffers(VaultError):
    status, slug, title = 409, "hold-differs", "同一编号的留存属于另一案件或另一事由。"


class HoldReleased(VaultError):
    status, slug, title = 409, "hold-released", "该项留存已经解除，须另立新的留存。"


class OrderNotAuthorized(VaultError):
    status, slug, title = 403, "order-not-authorized", "该指令没有两名在册保管人的有效签名，未予执行。"


class OrderUnfit(VaultError):
    status, slug, title = 422, "order-unfit", "该指令的内容不合规定，或已过有效期，未予执行。"


class OrderDiffers(VaultError):
    status, slug, title = 409, "order-differs", "同一编号的指令先前有不同内容，未予执行。"


class CustodianDiffers(VaultError):
    status, slug, title = 409, "custodian-differs", "该保管人密钥已经登记过，不能重复登记或更名。"


class NoSuchJob(VaultError):
    status, slug, title = 404, "no-such-job", "没有这一项待处理的后台任务。"


class NotPublished(VaultError):
    status, slug, title = 404, "not-published", "公开日志中没有这一文件。"


class NoSuchEnrolment(VaultError):
    status, slug, title = 404, "no-such-enrolment", "该终端密钥没有登记。"


class KeyRevoked(VaultError):
    status, slug, title = 409, "key-revoked", "该终端密钥已被吊销，须以新的密钥重新登记。"


class NoSuchKey(VaultError):
    status, slug, title = 404, "no-such-key", "没有这一把密钥。"


class KeyRetiring(VaultError):
    status, slug, title = 409, "key-retiring", "上一把日志密钥尚在联署，请先停用它（retire-key）再更换。"


class KeyNotRetiring(VaultError):
    status, slug, title = 409, "key-not-retiring", "这是现行密钥，请先更换（rotate-key）再停用。"


class KeyNotCurrent(VaultError):
    status, slug, title = 409, "key-not-current", "密钥刚被另一操作更换，未作改动，请重新查看后再试。"


class SigningBusy(VaultError):
    status, slug, title = 503, "signing-busy", "正有封存未完成，暂不能更换密钥，未作改动，请稍后重试。"


class KeyRotated(VaultError):
    status, slug, title = 409, "key-rotated", "导出期间证据库更换了签名密钥，请重新导出。"


class SigningStopped(VaultError):
    status, slug, title = 503, "signing-stopped", "证据库的签名密钥已更换，本进程尚未取得新密钥，请稍后重试。"


class RecordingDiffers(VaultError):
    status, slug, title = 409, "recording-differs", "同一编号的音像记录已由其他来源或以其他格式登记。"


class EnrolmentDiffers(VaultError):
    status, slug, title = 409, "enrolment-differs", "同一密钥已登记在其他执法记录仪名下。"


class KeyOfVault(VaultError):
    status, slug, title = 409, "key-of-vault", "这是证据库自己的密钥，不能登记为执法记录仪的密钥。"


class ActDiffers(VaultError):
    status, slug, title = 409, "act-differs", "同一编号的日志记录内容不同。"


class StatementUnfit(VaultError):
    status, slug, title = 422, "statement-unfit", "日志记录缺少应有的内容，或含有不能记载的内容。"


class AskDiffers(VaultError):
    status, slug, title = 409, "ask-differs", "同一片段先前登记的大小或时间不同。"


class TooManyDigests(VaultError):
    status, slug, title = 409, "too-many-digests", "同一序号的不同内容已达上限。"


class NotAsked(VaultError):
    status, slug, title = 409, "not-asked", "该片段尚未申请上传凭单。"


class NotStored(VaultError):
    status, slug, title = 409, "not-stored", "存储中还没有该片段，请重新申请凭单后上传。"


class StoredDiffers(VaultError):
    status, slug, title = 409, "stored-differs", "存储中的内容或锁定状态与申请不符，已拒绝封存。"


class SegmentsOutstanding(VaultError):
    status, slug, title = 409, "segments-outstanding", "仍有片段未封存，不能关闭该音像记录。"


class ClosingDiffers(VaultError):
    status, slug, title = 409, "closing-differs", "该音像记录已按另一份关闭声明封存。"


class ClosedByServer(VaultError):
    status, slug, title = 409, "closed-by-server", "该音像记录已由服务器代为封存，其后的内容请作为补充封存。"


class SourceNotIdle(VaultError):
    status, slug, title = 409, "source-not-idle", "该终端仍可自行签名封存，尚未到可由服务器代为封存的时限。"


class OtherKind(VaultError):
    status, slug, title = 409, "other-kind", "音像记录只收音像片段，系列只收文件版本（版本号从 1 起）。"


class NeverClosed(VaultError):
    status, slug, title = 409, "never-closed", "系列没有关闭：每个版本各自封存。"


class NothingSealed(VaultError):
    status, slug, title = 409, "nothing-sealed", "该音像记录还没有任何已封存的片段。"


class WholeDiffers(VaultError):
    status, slug, title = 409, "whole-differs", "已封存的片段合起来不是所说的整个文件，未予关闭。"


class BadClosing(VaultError):
    status, slug, title = 422, "bad-closing", "关闭声明无效：签名、数量或默克尔根与已封存片段不符。"


class ConflictsUndecided(VaultError):
    """`retry_after` is in seconds."""

    status, slug, title = (
        409,
        "conflicts-undecided",
        "同一序号下内容不同的片段过多，无法由关闭声明的默克尔根判定所指的是哪些；内容均已封存，终端静默后由服务器代为封存。",
    )


class NoSuchExport(VaultError):
    status, slug, title = 404, "no-such-export", "证据库没有这次导出。"


class TooManyExports(VaultError):
    """`retry_after` is in seconds."""

    status, slug, title = 429, "too-many-exports", "正在准备的导出已达上限，请待其完成后再试。"


class ExportTooLarge(VaultError):
    status, slug, title = 413, "export-too-large", "所选内容超过一次导出的上限，请分几次导出。"


class CopiesUnavailable(VaultError):
    status, slug, title = 409, "copies-unavailable", "本机没有制作副本所需的程序 ffmpeg，请改为不附副本导出。"


class DisposalUnderway(VaultError):
    status, slug, title = 409, "disposal-underway", "所选记录正在销毁，请在销毁完成后再导出。"


class ExportNotReady(VaultError):
    status, slug, title = 409, "export-not-ready", "证据包尚在准备，请稍候。"


class ExportFailed(VaultError):
    status, slug, title = 409, "export-failed", "证据包未能备好，不能下载。"


class ExportLapsed(VaultError):
    status, slug, title = 410, "export-lapsed", "本次导出已过保留期限，请重新登记。"


class RangeUnsatisfiable(VaultError):
    """`size` is the tar's."""

    status, slug, title = 416, "range-unsatisfiable", "所请求的范围超出证据包。"


class StoreUnavailable(VaultError):
    status, slug, title = 503, "store-unavailable", "对象存储暂不可用，请稍后重试。"


class StoreFull(StoreUnavailable):
    status, slug, title = 503, "store-full", "证据存储空间不足，暂不能写入，请通知管理员。"


class ClockDrift(VaultError):
    status, slug, title = 503, "clock-drift", "证据库与存储的时钟相差超过 5 秒，已暂停发放上传凭单，请稍后重试。"


class LogUnavailable(VaultError):
    status, slug, title = 503, "log-unavailable", "日志暂时无法登记，操作尚未生效，请稍后重试。"


class NotPublishedYet(VaultError):
    status, slug, title = 503, "not-published-yet", "日志已经登记，尚未公布到存储，请稍后重试。"


class StoreUnfit(Exception):
    """The store does not keep its promises: the vault refuses to serve. The message names what gave way."""


class HistoryLost(Exception):
    """The log in the database is older than the newest published checkpoint: a restored dump is a fork."""


class CertificateFault(Exception):
    """A pinned certificate is missing or unfit. The message is one clear sentence."""


class KeyFault(Exception):
    """A private key is missing, unreadable or open to others. The message is one clear sentence."""
