"""Triggers that refuse UPDATE and DELETE on the ledger, and UPDATE on prices. The door is in `usage/appendonly.py`."""

from django.db import migrations

GUARDS = (
    ("usage_usagerecord", "UPDATE", "ledger rows are append-only"),
    ("usage_usagerecord", "DELETE", "ledger rows are append-only"),
    ("usage_price", "UPDATE", "prices are never changed; enter a new one"),
)

SQLITE = """
CREATE TRIGGER {table}_no_{lower} BEFORE {event} ON {table}
WHEN NOT EXISTS (SELECT 1 FROM usage_ledgerdoor)
BEGIN SELECT RAISE(ABORT, '{message}'); END
"""

POSTGRES_FUNCTION = """
CREATE FUNCTION usage_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM usage_ledgerdoor) THEN
        RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'restrict_violation';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END $$
"""

POSTGRES = """
CREATE TRIGGER {table}_no_{lower} BEFORE {event} ON {table}
FOR EACH ROW EXECUTE FUNCTION usage_refuse_change('{message}')
"""


def create_triggers(apps, schema_editor):
    """One trigger for each guard, in the database's own words."""
    vendor = schema_editor.connection.vendor
    if vendor not in ("sqlite", "postgresql"):
        raise RuntimeError(f"the ledger has no append-only triggers for {vendor}")
    if vendor == "postgresql":
        schema_editor.execute(POSTGRES_FUNCTION, params=None)
    template = POSTGRES if vendor == "postgresql" else SQLITE
    for table, event, message in GUARDS:
        statement = template.format(table=table, event=event, lower=event.lower(), message=message)
        schema_editor.execute(statement, params=None)


def drop_triggers(apps, schema_editor):
    """Takes them away again."""
    postgres = schema_editor.connection.vendor == "postgresql"
    for table, event, _ in GUARDS:
        suffix = f" ON {table}" if postgres else ""
        schema_editor.execute(f"DROP TRIGGER {table}_no_{event.lower()}{suffix}", params=None)
    if postgres:
        schema_editor.execute("DROP FUNCTION usage_refuse_change()", params=None)


class Migration(migrations.Migration):
    dependencies = [("usage", "0001_initial")]

    operations = [migrations.RunPython(create_triggers, drop_triggers)]
