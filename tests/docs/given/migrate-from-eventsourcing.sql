-- What eventsourcing 9.5.6 writes for two accounts and three deposits, with other times.
BEGIN TRANSACTION;
CREATE TABLE stored_events (originator_id TEXT, originator_version INTEGER, topic TEXT, state BLOB, PRIMARY KEY (originator_id, originator_version));
INSERT INTO "stored_events" VALUES('5ee4f2763b4d4916ad0657ffda4dbad2',1,'bank_old:Account.Opened',CAST('{"timestamp":{"_type_":"datetime_iso","_data_":"2024-03-01T09:30:12.494086+00:00"},"originator_topic":"bank_old:Account","owner":"Ann"}' AS BLOB));
INSERT INTO "stored_events" VALUES('fcff26c17cda4b83871deca0bb39fb0e',1,'bank_old:Account.Opened',CAST('{"timestamp":{"_type_":"datetime_iso","_data_":"2024-03-01T09:30:12.495341+00:00"},"originator_topic":"bank_old:Account","owner":"Bob"}' AS BLOB));
INSERT INTO "stored_events" VALUES('5ee4f2763b4d4916ad0657ffda4dbad2',2,'bank_old:Account.Deposited',CAST('{"timestamp":{"_type_":"datetime_iso","_data_":"2024-03-01T09:30:12.500062+00:00"},"cents":500}' AS BLOB));
INSERT INTO "stored_events" VALUES('fcff26c17cda4b83871deca0bb39fb0e',2,'bank_old:Account.Deposited',CAST('{"timestamp":{"_type_":"datetime_iso","_data_":"2024-03-01T09:30:12.502341+00:00"},"cents":70}' AS BLOB));
INSERT INTO "stored_events" VALUES('5ee4f2763b4d4916ad0657ffda4dbad2',3,'bank_old:Account.Deposited',CAST('{"timestamp":{"_type_":"datetime_iso","_data_":"2024-03-01T09:30:12.510423+00:00"},"cents":250}' AS BLOB));
COMMIT;
