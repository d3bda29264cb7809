-- The epoch under which somebody moved next_offset on purpose; NULL once the group's committed offset has followed. While
-- it equals the epoch nobody has taken the partition up since: the copy that reads it claims it again and goes on there.
ALTER TABLE offsets ADD COLUMN reset_epoch bigint;
