"""What a configuration change makes of a configuration. Pure: a ConfState in, a ConfState out.

A change of one voter is safe by itself, since any two majorities still meet (dissertation, 4.1). More
voters at once go through a joint configuration, in which both halves must agree (4.3). A voter that
becomes a learner stays a voter of the outgoing half until that is left: `learners_next`. A change of node 0 changes
nobody: so a host can void a committed change and still apply it.
"""

from mas.raft.errors import ConfigError
from mas.raft.messages import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
)

NOBODY = 0


def apply(conf: ConfState, change: ConfChange) -> ConfState:
    """Return the configuration after `change`; raises ConfigError where `conf` doesn't allow it."""
    if not change.changes:
        return leave_joint(conf)
    if change.transition is ConfChangeTransition.AUTO and len(change.changes) == 1:
        return simple(conf, change.changes[0])
    auto_leave = change.transition is not ConfChangeTransition.JOINT_EXPLICIT
    return enter_joint(conf, change.changes, auto_leave=auto_leave)


def simple(conf: ConfState, change: ConfChangeSingle) -> ConfState:
    """Change one member at once."""
    if conf.voters_outgoing:
        raise ConfigError("a simple change while the configuration is joint: leave that first")
    return _changed(conf, (change,))


def enter_joint(
    conf: ConfState, changes: tuple[ConfChangeSingle, ...], *, auto_leave: bool
) -> ConfState:
    """Make the voters the outgoing half of a joint configuration, and change the incoming half."""
    if conf.voters_outgoing:
        raise ConfigError("the configuration is joint already: leave it first")
    if not conf.voters:
        raise ConfigError("a group without voters can't become joint: add the first one alone")
    outgoing = ConfState(
        voters=conf.voters,
        voters_outgoing=conf.voters,
        learners=conf.learners,
        auto_leave=auto_leave,
    )
    return _changed(outgoing, changes)


def leave_joint(conf: ConfState) -> ConfState:
    """Forget the outgoing half; who was only waiting to be a learner becomes one."""
    if not conf.voters_outgoing:
        raise ConfigError("the configuration isn't joint: there is nothing to leave")
    learners = tuple(sorted(conf.learners + conf.learners_next))
    return ConfState(voters=conf.voters, learners=learners)


def check(conf: ConfState) -> None:
    """Raise ConfigError where `conf` is no configuration that changes could have led to."""
    groups = (conf.voters, conf.voters_outgoing, conf.learners, conf.learners_next)
    for members in groups:
        if list(members) != sorted(set(members)) or (members and members[0] < 1):
            raise ConfigError(f"members {members} must be positive, ascending and each there once")
    if not conf.voters and any(groups):
        raise ConfigError(f"{conf} has members but no voters")
    if _meet(conf.learners, conf.voters + conf.voters_outgoing + conf.learners_next):
        raise ConfigError(f"{conf} has a learner that is something else too")
    if _meet(conf.learners_next, conf.voters):
        raise ConfigError(f"{conf} has a voter of the incoming half that is to be a learner")
    if any(member not in conf.voters_outgoing for member in conf.learners_next):
        raise ConfigError(f"{conf} has a learner-to-be that isn't a voter of the outgoing half")
    if conf.auto_leave and not conf.voters_outgoing:
        raise ConfigError(f"{conf} is to be left by itself, and isn't joint")


def _changed(conf: ConfState, changes: tuple[ConfChangeSingle, ...]) -> ConfState:
    voters, learners = set(conf.voters), set(conf.learners)
    learners_next = set(conf.learners_next)
    for change in changes:
        node = change.node_id
        if node == NOBODY:
            continue
        if node < 0:
            raise ConfigError(f"node id {node} in a configuration change; ids are positive")
        for members in (voters, learners, learners_next):
            members.discard(node)
        match change.type:
            case ConfChangeType.ADD_NODE:
                voters.add(node)
            case ConfChangeType.ADD_LEARNER if node in conf.voters_outgoing:
                learners_next.add(node)
            case ConfChangeType.ADD_LEARNER:
                learners.add(node)
            case ConfChangeType.REMOVE_NODE:
                pass
    if not voters:
        raise ConfigError("the change leaves no voters; a group needs one")
    return ConfState(
        voters=tuple(sorted(voters)),
        voters_outgoing=conf.voters_outgoing,
        learners=tuple(sorted(learners)),
        learners_next=tuple(sorted(learners_next)),
        auto_leave=conf.auto_leave,
    )


def _meet(some: tuple[int, ...], others: tuple[int, ...]) -> bool:
    return any(member in others for member in some)
