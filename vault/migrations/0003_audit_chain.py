"""Chains the audit entries by their hashes, those that are there already in the order of their ids."""

from django.db import migrations, models

from vault.chain import CONTENT, GENESIS, digest_of
from vault.triggers import install, lift

CHUNK = 1_000


def install_triggers(apps, schema_editor):
    install(schema_editor.connection)


def lift_triggers(apps, schema_editor):
    lift(schema_editor.connection)


def chain(apps, schema_editor):
    """Walks over the entries in chunks, so that a long trail needs no more memory than a short one."""
    entries = apps.get_model("vault", "AuditEntry").objects
    last, seq, before = 0, 0, GENESIS
    while rows := list(entries.filter(id__gt=last).order_by("id")[:CHUNK]):
        for row in rows:
            seq += 1
            row.seq, row.prev_hash = seq, before
            row.hash = before = digest_of(seq, before, {name: getattr(row, name) for name in CONTENT})
        entries.bulk_update(rows, ["seq", "prev_hash", "hash"], batch_size=100)
        last = rows[-1].id
    apps.get_model("vault", "AuditHead").objects.create(id=1, seq=seq, hash=before)


class Migration(migrations.Migration):
    dependencies = [("vault", "0002_audit_entries_are_append_only")]

    operations = [
        migrations.RunPython(lift_triggers, install_triggers),
        migrations.CreateModel(
            name="AuditHead",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("seq", models.PositiveBigIntegerField(default=0)),
                ("hash", models.CharField(max_length=64)),
            ],
            options={"default_permissions": ()},
        ),
        migrations.AlterModelOptions(
            name="auditentry",
            options={
                "ordering": ["-seq"],
                "permissions": [("export_auditentry", "Can export the audit trail")],
                "verbose_name_plural": "audit entries",
            },
        ),
        migrations.AlterField(
            model_name="auditentry",
            name="actor_kind",
            field=models.CharField(
                choices=[
                    ("user", "User"),
                    ("token", "Admin token"),
                    ("bootstrap", "Bootstrap"),
                    ("system", "Tokenhub"),
                    ("command", "Command"),
                    ("anonymous", "Not signed in"),
                ],
                max_length=16,
            ),
        ),
        migrations.AddField("auditentry", "seq", models.PositiveBigIntegerField(null=True)),
        migrations.AddField("auditentry", "prev_hash", models.CharField(default="", max_length=64)),
        migrations.AddField("auditentry", "hash", models.CharField(default="", max_length=64)),
        migrations.RunPython(chain, migrations.RunPython.noop),
        migrations.AlterField(
            "auditentry",
            "seq",
            models.PositiveBigIntegerField(
                help_text="Its place in the trail: 1, 2, 3, … without a gap.", unique=True
            ),
        ),
        migrations.AlterField(
            "auditentry",
            "prev_hash",
            models.CharField(help_text="The hash of the entry before it.", max_length=64),
        ),
        migrations.AlterField(
            "auditentry",
            "hash",
            models.CharField(help_text="SHA-256 over all of the above but the ID.", max_length=64),
        ),
        migrations.RunPython(install_triggers, lift_triggers),
    ]
