//! Examining a database's catalogue for its certificate (see [`Certificate`]): when the pool opens its first backend,
//! after DDL that passed through it, and every few seconds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Pool;
use crate::backend::{AskError, Backend, Row};
use crate::config::{HiddenState, Isolation};
use crate::track::Certificate;
use crate::track::certificate::Object;

/// How often the catalogue is looked at for what others have changed in it.
const EVERY: Duration = Duration::from_secs(5);

/// Extensions of PostgreSQL's own and others whose C functions keep nothing in a session.
const TRUSTED: &str = "{btree_gin,btree_gist,citext,cube,earthdistance,fuzzystrmatch,hstore,intarray,isn,lo,ltree,\
     pg_buffercache,pg_freespacemap,pg_stat_statements,pg_trgm,pg_visibility,pgcrypto,pgrowlocks,pgstattuple,seg,sslinfo,\
     tablefunc,tcn,tsm_system_rows,tsm_system_time,unaccent,uuid-ossp,vector,xml2}";

/// What changes when anything that [`OBJECTS`] shows does: counts and the transactions that wrote the rows.
const FINGERPRINT: &str = "SELECT concat_ws(' ', \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_proc), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_rewrite), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_trigger), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_attrdef), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_policy), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_constraint), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, indexrelid)))) FROM pg_index), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_operator), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_cast), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_event_trigger), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_type WHERE typtype = 'd'), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(relname, oid)))) FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f') \
       AND oid >= 16384 AND relpersistence <> 't'), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(inhrelid, inhparent)))) FROM pg_inherits), \
     (SELECT concat(count(*), ':', sum(hashtext(concat(xmin, oid)))) FROM pg_extension))";

/// Name (NULL: it may act anywhere), text, language, whether it is trusted. Of everything that is not PostgreSQL's own
/// (identifiers below 16384 are: `FirstNormalObjectId` of `src/include/access/transam.h`).
const OBJECTS: &str = "SELECT proname::text, CASE WHEN length(prosrc) > 200000 THEN 'execute' ELSE concat(prosrc, ' ', \
       pg_get_function_sqlbody(p.oid), ' ', pg_get_function_arguments(p.oid)) END, lanname::text, \
       EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = refobjid WHERE d.classid = 'pg_proc'::regclass \
         AND d.objid = p.oid AND deptype = 'e' AND extname = ANY ($1::text[])) \
     FROM pg_proc p JOIN pg_language l ON l.oid = prolang WHERE p.oid >= 16384 AND prokind <> 'a' \
     UNION ALL SELECT proname::text, concat_ws(' ', aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, \
       aggmtransfn, aggminvtransfn, aggmfinalfn), NULL, false FROM pg_aggregate JOIN pg_proc p ON p.oid = aggfnoid \
       WHERE p.oid >= 16384 \
     UNION ALL SELECT relname::text, pg_get_viewdef(oid), NULL, false FROM pg_class WHERE oid >= 16384 AND relkind IN ('v', 'm') \
     UNION ALL SELECT relname::text, pg_get_ruledef(r.oid), NULL, false FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class \
       WHERE r.oid >= 16384 AND rulename <> '_RETURN' \
     UNION ALL SELECT relname::text, concat(proname, ' ', replace(pg_get_triggerdef(t.oid), 'EXECUTE ', '')), NULL, false \
       FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid \
       JOIN pg_proc p ON p.oid = tgfoid WHERE NOT tgisinternal \
     UNION ALL SELECT relname::text, pg_get_expr(adbin, adrelid), NULL, false FROM pg_attrdef JOIN pg_class c ON c.oid = adrelid \
       WHERE c.oid >= 16384 \
     UNION ALL SELECT relname::text, concat_ws(' ', pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)), NULL, \
       false FROM pg_policy JOIN pg_class c ON c.oid = polrelid \
     UNION ALL SELECT relname::text, pg_get_constraintdef(k.oid), NULL, false FROM pg_constraint k \
       LEFT JOIN pg_class c ON c.oid = conrelid WHERE k.oid >= 16384 AND contype = 'c' \
     UNION ALL SELECT NULL, typdefault, NULL, false FROM pg_type WHERE oid >= 16384 AND typdefault IS NOT NULL \
     UNION ALL SELECT relname::text, pg_get_indexdef(indexrelid), NULL, false FROM pg_index JOIN pg_class c ON c.oid = indrelid \
       WHERE indexrelid >= 16384 AND (indexprs IS NOT NULL OR indpred IS NOT NULL) \
     UNION ALL SELECT p.relname::text, c.relname::text, NULL, false FROM pg_inherits \
       JOIN pg_class p ON p.oid = inhparent JOIN pg_class c ON c.oid = inhrelid \
     UNION ALL SELECT p.relname::text, c.relname::text, NULL, false FROM pg_constraint \
       JOIN pg_class p ON p.oid = confrelid JOIN pg_class c ON c.oid = conrelid WHERE contype = 'f' \
     UNION ALL SELECT NULL, oprcode::text, NULL, false FROM pg_operator WHERE oid >= 16384 \
     UNION ALL SELECT NULL, castfunc::regproc::text, NULL, false FROM pg_cast WHERE oid >= 16384 AND castfunc <> 0 \
     UNION ALL SELECT NULL, evtfoid::regproc::text, NULL, false FROM pg_event_trigger WHERE evtenabled <> 'D'";

/// A certificate, and what it was made from.
#[derive(Debug)]
pub(super) struct Certified {
    certificate: Arc<Certificate>,
    /// The pool's count of schema changes before the catalogue was read.
    schema: u64,
    fingerprint: Option<String>,
    /// It could not be read; that is not tried again before its time.
    failed: bool,
    at: Instant,
    /// The pool's transactions until then.
    transactions: u64,
}

impl Certified {
    /// Nothing has been examined yet.
    pub(super) fn unknown() -> Self {
        Self {
            certificate: Arc::new(Certificate::unknown()),
            schema: 0,
            fingerprint: None,
            failed: false,
            at: Instant::now(),
            transactions: 0,
        }
    }
}

impl Pool {
    /// Whether a backend may need cleaning between two clients although nothing is known to be left in it.
    #[inline]
    pub(crate) fn is_careful(&self) -> bool {
        self.careful.load(Ordering::Acquire)
    }

    /// Whether something in the database may leave hidden state in a backend's session.
    #[inline]
    pub(crate) fn may_hide(&self) -> bool {
        self.hides.load(Ordering::Acquire)
    }

    /// Whether a text (`None`: it is not all there) may use something that does. After a change of the catalogue nobody
    /// knows.
    #[inline]
    pub(crate) fn suspects(&self, text: Option<&[u8]>) -> bool {
        self.may_hide() && text.is_none_or(|text| self.is_stale() || self.certified.load().certificate.suspects(text))
    }

    /// Whether a text may use something that changes parameters until the transaction ends.
    #[inline]
    pub(crate) fn suspects_local(&self, text: Option<&[u8]>) -> bool {
        self.locals.load(Ordering::Acquire)
            && text.is_none_or(|text| self.is_stale() || self.certified.load().certificate.suspects_local(text))
    }

    /// Whether a text may use something that sends a notification, while somebody listens.
    #[inline]
    pub(crate) fn suspects_notify(&self, text: Option<&[u8]>) -> bool {
        self.listening.load(Ordering::Relaxed) > 0
            && self.settings.load().hidden_state != HiddenState::Off
            && text.is_none_or(|text| self.is_stale() || self.certified.load().certificate.suspects_notify(text))
    }

    /// DDL has passed: what is known of the catalogue does not hold any more.
    pub(crate) fn doubt_certificate(&self) {
        self.catalogue.fetch_add(1, Ordering::AcqRel);
        self.judge();
    }

    /// Draws the conclusions from the certificate and the settings.
    pub(super) fn judge(&self) {
        let settings = self.settings.load();
        let locals = self.is_stale() || self.certified.load().certificate.has_local();
        self.locals.store(locals && settings.hidden_state != HiddenState::Off, Ordering::Release);
        let unclean = self.is_stale() || !self.certified.load().certificate.is_clean();
        let hides = unclean && settings.hidden_state != HiddenState::Off;
        self.hides.store(hides, Ordering::Release);
        let strict = settings.isolation == Isolation::Strict || settings.hidden_state == HiddenState::Clean;
        self.careful.store(hides || strict, Ordering::Release);
    }

    /// Whether what is known of the catalogue may not hold any more.
    pub(crate) fn is_stale(&self) -> bool {
        let certified = self.certified.load();
        (certified.fingerprint.is_none() && !certified.failed)
            || certified.schema != self.catalogue.load(Ordering::Acquire)
    }

    /// Custom parameters that something in the database may set.
    pub(crate) fn hidden_names(&self) -> Vec<String> {
        self.certified.load().certificate.names().to_vec()
    }

    /// Whether something may be kept where no reset reaches.
    pub(crate) fn has_globals(&self) -> bool {
        self.certified.load().certificate.has_globals()
    }

    /// Examines the catalogue anew if that is due and a backend is idle.
    pub(super) fn keep_certified(self: &Arc<Self>) {
        let certified = self.certified.load();
        let changed = certified.schema != self.catalogue.load(Ordering::Acquire);
        if self.settings.load().hidden_state == HiddenState::Off || (certified.at.elapsed() < EVERY && !changed) {
            return;
        }
        // A pool that nobody uses keeps no backend busy with questions; who comes next finds out.
        if self.metrics.transactions.get() == certified.transactions {
            if !self.is_stale() {
                self.doubt_certificate();
            }
            return;
        }
        // Where none is idle it queues like everybody else, once.
        if self.certifying.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = self.clone();
        tokio::spawn(async move {
            if let Ok(mut lease) = pool.borrow_for_errand().await {
                pool.certify(&mut lease).await;
                lease.release();
            }
            pool.certifying.store(false, Ordering::Release);
        });
    }

    /// Examines the catalogue. A backend that cannot tell leaves everything suspect.
    pub(crate) async fn certify(&self, backend: &mut Backend) {
        let schema = self.catalogue.load(Ordering::Acquire);
        let transactions = self.metrics.transactions.get();
        let known = self.certified.load();
        let certified = match examine(backend, known.fingerprint.as_deref()).await {
            Ok(None) => Certified {
                certificate: known.certificate.clone(),
                schema,
                fingerprint: known.fingerprint.clone(),
                failed: false,
                at: Instant::now(),
                transactions,
            },
            Ok(Some((fingerprint, objects))) => {
                // There may be much to look through.
                let made = tokio::task::spawn_blocking(move || Certificate::new(&objects)).await;
                let certificate = Arc::new(made.unwrap_or_else(|_| Certificate::unknown()));
                if !certificate.is_clean() && (known.fingerprint.is_none() || known.certificate.is_clean()) {
                    tracing::info!(pool = %self.key, "functions of this database may change session state: backends are cleaned between clients");
                }
                if certificate.asks_sequences() {
                    self.sequences.store(true, Ordering::Release);
                }
                Certified {
                    certificate,
                    schema,
                    fingerprint: Some(fingerprint),
                    failed: false,
                    at: Instant::now(),
                    transactions,
                }
            }
            Err(error) => {
                tracing::warn!(pool = %self.key, "cannot examine the catalogue: {error}");
                Certified { schema, failed: true, transactions, ..Certified::unknown() }
            }
        };
        self.certified.store(Arc::new(certified));
        self.judge();
    }
}

/// The objects and their fingerprint; `None`: it is still `known`.
async fn examine(backend: &mut Backend, known: Option<&str>) -> Result<Option<(String, Vec<Object>)>, AskError> {
    let answer = backend.ask_safely(FINGERPRINT, &[]).await?;
    let fingerprint = answer.rows.into_iter().flatten().flatten().next().unwrap_or_default();
    if known.is_some_and(|known| known == fingerprint) {
        return Ok(None);
    }
    let rows = backend.ask_safely(OBJECTS, &[TRUSTED]).await?.rows;
    Ok(Some((fingerprint, rows.into_iter().filter_map(object).collect())))
}

fn object(row: Row) -> Option<Object> {
    let [name, text, language, trusted] = <[Option<String>; 4]>::try_from(row).ok()?;
    Some(Object { name, text: text.unwrap_or_default(), language, trusted: trusted.as_deref() == Some("t") })
}
