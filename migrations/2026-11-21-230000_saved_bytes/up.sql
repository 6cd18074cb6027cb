-- Bytes read for a restore point that needed no storing, because the datastore had them or they are zeros; -1 = not counted.
ALTER TABLE increment ADD COLUMN saved_bytes INTEGER NOT NULL DEFAULT -1;
